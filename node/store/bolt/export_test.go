package bolt

// SealForTest seals a value as the store would.
var SealForTest = encodeBytes
