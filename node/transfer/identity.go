package transfer

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/koi-net/koi-operator/node/identity"
)

// ErrPassword is wrapped where the key is encrypted and its password was not
// given, or one is needed to encrypt it.
var ErrPassword = errors.New("a password is needed")

// maxKeyFile bounds the private key's file.
const maxKeyFile = 64 << 10

const pemEncrypted = "ENCRYPTED PRIVATE KEY"

// identityFiles returns the files of the node's identity. An encrypted key
// stays as it is, with its password beside it.
func (p Plan) identityFiles(password []byte) (map[string][]byte, error) {
	files := map[string][]byte{identity.RIDFile: []byte(string(p.RID) + "\n")}
	if !p.Signed() {
		return files, nil
	}
	key, err := readPath(p.Key, maxKeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing: without its key the node cannot be %s; restore it", identity.ErrDamaged, p.Key, p.RID)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	files[identity.KeyFile] = key
	if !isEncrypted(key) {
		return files, nil
	}
	if len(password) == 0 {
		return nil, fmt.Errorf("%w: %s is encrypted", ErrPassword, p.Key)
	}
	files[identity.PasswordFile] = passwordFile(password)
	return files, nil
}

func isEncrypted(keyFile []byte) bool {
	block, _ := pem.Decode(keyFile)
	return block != nil && block.Type == pemEncrypted
}

// passwordFile is the content of a file that is read as the password: one line
// break at its end is not part of it.
func passwordFile(password []byte) []byte {
	end := "\n"
	if strings.HasSuffix(string(password), "\r") {
		end = "\r\n"
	}
	return append(append([]byte{}, password...), end...)
}

// writeIdentity writes the files of an identity into dir and holds them against
// each other. Errors name key, the file the key came from.
func writeIdentity(dir string, files map[string][]byte, key string) (identity.Identity, error) {
	for name, data := range files {
		if err := writeSynced(filepath.Join(dir, name), data); err != nil {
			return identity.Identity{}, err
		}
	}
	id, err := identity.Load(dir)
	if err != nil {
		return identity.Identity{}, elsewhere(err, strings.NewReplacer(filepath.Join(dir, identity.KeyFile), key, dir, filepath.Dir(key)))
	}
	return id, nil
}

// elsewhere gives an error the names of the files that were copied.
func elsewhere(err error, names *strings.Replacer) error {
	return &renamed{err: err, text: names.Replace(err.Error())}
}

type renamed struct {
	err  error
	text string
}

func (r *renamed) Error() string { return r.text }
func (r *renamed) Unwrap() error { return r.err }

// keyRounds of PBKDF2 make a password hard to guess. The library writes 2048, and
// reads any number.
const keyRounds = 600_000

// encryptKey writes a private key the way the library needs it: PKCS #8 in PEM,
// encrypted with PBES2 (PBKDF2 with HMAC-SHA256, AES-256 in CBC mode).
func encryptKey(key *ecdsa.PrivateKey, password []byte, rounds int) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	_, _ = rand.Read(salt) // it never fails
	_, _ = rand.Read(iv)
	secret, err := pbkdf2.Key(sha256.New, string(password), salt, rounds, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(der)%aes.BlockSize
	for range pad {
		der = append(der, byte(pad))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(der, der)
	sealed, err := sealedKey(salt, rounds, iv, der)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: sealed}), nil
}

// sealedKey is the EncryptedPrivateKeyInfo of RFC 5958 around the cipher's text.
func sealedKey(salt []byte, rounds int, iv, text []byte) ([]byte, error) {
	prf := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, Parameters: asn1.NullRawValue}
	kdf, err := asn1.Marshal(struct {
		Salt   []byte
		Rounds int
		PRF    pkix.AlgorithmIdentifier
	}{salt, rounds, prf})
	if err != nil {
		return nil, err
	}
	vector, err := asn1.Marshal(iv)
	if err != nil {
		return nil, err
	}
	scheme, err := asn1.Marshal(struct{ KDF, Cipher pkix.AlgorithmIdentifier }{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}, Parameters: asn1.RawValue{FullBytes: kdf}},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, Parameters: asn1.RawValue{FullBytes: vector}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}, Parameters: asn1.RawValue{FullBytes: scheme}},
		text,
	})
}

// PasswordFrom reads a password from the .env file of the node's directory, as
// the library does: the value of the variable p.PasswordVariable. It is nil
// where there is no such file or variable.
func (p Plan) PasswordFrom() (password []byte, path string, err error) {
	path = filepath.Join(p.Dir, dotenvName)
	text, err := readPath(path, maxConfig)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, path, nil
	case err != nil:
		return nil, path, err
	}
	value, found, err := dotenv(string(text), p.PasswordVariable)
	if err != nil {
		return nil, path, fmt.Errorf("%s: %s: %w", path, p.PasswordVariable, err)
	}
	if !found {
		return nil, path, nil
	}
	return []byte(value), path, nil
}
