// Package secrets makes and reads the two Secrets of a node: the identity (RID
// and key pair), made once and never changed, and the admin Secret (token and
// certificate), which protects the way from the operator to the node.
//
// It is pure but for the randomness it is given. Private keys and tokens pass
// through it and are never put into an error or a log.
package secrets
