package identity

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // PBKDF2 with HMAC-SHA1 is what older key files name
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
)

const (
	pemPlain     = "PRIVATE KEY"
	pemEncrypted = "ENCRYPTED PRIVATE KEY"
)

// maxRounds bounds the work a key file can ask for.
const maxRounds = 10_000_000

var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACSHA1   = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidHMACSHA512 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}
	oidAES128CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// errPassword is what a wrong password looks like; a damaged key looks the same.
var errPassword = errors.New("it cannot be decrypted with the password; restore the key or the file " + PasswordFile + " that belongs to it")

// parseKey reads a P-256 private key from PKCS #8 PEM, encrypted or not. One
// line break at the end of the password file is not part of the password.
func parseKey(data, password []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("there is no PEM block in it; restore it")
	}
	der := block.Bytes
	switch block.Type {
	case pemPlain:
	case pemEncrypted:
		if password == nil {
			return nil, fmt.Errorf("it is encrypted; put its password into the file %s beside it", PasswordFile)
		}
		plain, err := decrypt(der, trimLineBreak(password))
		if err != nil {
			return nil, err
		}
		der = plain
	default:
		return nil, fmt.Errorf("its PEM block is a %q, not a PKCS #8 %q; restore it", block.Type, pemPlain)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if block.Type == pemEncrypted {
			return nil, errPassword
		}
		return nil, fmt.Errorf("it holds no PKCS #8 private key (%w); restore it", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("it holds another kind of key than P-256; restore it")
	}
	return key, nil
}

func trimLineBreak(password []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(password, []byte("\n")), []byte("\r"))
}

// decrypt opens an EncryptedPrivateKeyInfo (RFC 5958) encrypted with PBES2
// (RFC 8018): PBKDF2 and AES in CBC mode, as the reference writes it.
func decrypt(der, password []byte) ([]byte, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	var scheme struct {
		KDF    pkix.AlgorithmIdentifier
		Cipher pkix.AlgorithmIdentifier
	}
	var kdf struct {
		Salt   []byte
		Rounds int
		Length int                      `asn1:"optional"`
		PRF    pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	var iv []byte
	if err := unmarshal(der, &info); err != nil {
		return nil, err
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, fmt.Errorf("it is encrypted with algorithm %v, only PBES2 is known; encrypt it anew", info.Algorithm.Algorithm)
	}
	if err := unmarshal(info.Algorithm.Parameters.FullBytes, &scheme); err != nil {
		return nil, err
	}
	if !scheme.KDF.Algorithm.Equal(oidPBKDF2) {
		return nil, fmt.Errorf("its password is derived with algorithm %v, only PBKDF2 is known; encrypt it anew", scheme.KDF.Algorithm)
	}
	if err := unmarshal(scheme.KDF.Parameters.FullBytes, &kdf); err != nil {
		return nil, err
	}
	if err := unmarshal(scheme.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, err
	}
	if kdf.Rounds < 1 || kdf.Rounds > maxRounds {
		return nil, fmt.Errorf("it asks for %d rounds of PBKDF2, 1 to %d are taken; encrypt it anew", kdf.Rounds, maxRounds)
	}
	var prf func() hash.Hash
	switch oid := kdf.PRF.Algorithm; {
	case len(oid) == 0 || oid.Equal(oidHMACSHA1):
		prf = sha1.New
	case oid.Equal(oidHMACSHA256):
		prf = sha256.New
	case oid.Equal(oidHMACSHA512):
		prf = sha512.New
	default:
		return nil, fmt.Errorf("its PBKDF2 uses the unknown function %v; encrypt it anew", oid)
	}
	length := 0
	switch oid := scheme.Cipher.Algorithm; {
	case oid.Equal(oidAES128CBC):
		length = 16
	case oid.Equal(oidAES256CBC):
		length = 32
	default:
		return nil, fmt.Errorf("it is encrypted with the unknown cipher %v, AES-256-CBC is known; encrypt it anew", oid)
	}
	if kdf.Length != 0 && kdf.Length != length {
		return nil, errMalformed
	}
	key, err := pbkdf2.Key(prf, string(password), kdf.Salt, kdf.Rounds, length)
	if err != nil {
		return nil, fmt.Errorf("deriving its key: %w", err)
	}
	return openCBC(key, iv, info.Data)
}

func openCBC(key, iv, data []byte) ([]byte, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if len(iv) != c.BlockSize() || len(data) == 0 || len(data)%c.BlockSize() != 0 {
		return nil, errMalformed
	}
	out := make([]byte, len(data))
	cipher.NewCBCDecrypter(c, iv).CryptBlocks(out, data)
	pad := int(out[len(out)-1])
	if pad < 1 || pad > c.BlockSize() {
		return nil, errPassword
	}
	for _, b := range out[len(out)-pad:] {
		if int(b) != pad {
			return nil, errPassword
		}
	}
	return out[:len(out)-pad], nil
}

var errMalformed = errors.New("its encryption parameters are malformed; restore it")

func unmarshal(der []byte, to any) error {
	rest, err := asn1.Unmarshal(der, to)
	if err != nil || len(rest) > 0 {
		return errMalformed
	}
	return nil
}
