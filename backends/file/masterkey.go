package file

import (
	"crypto/aes"
	"crypto/cipher"
	"io/fs"
	"os"
	"strconv"
	"time"
)

// masterKey is a key as its file was when it was read, ready for use. It does not
// change.
type masterKey struct {
	reference string
	versions  []cipherVersion // of number 1, 2, ...
	newest    *cipherVersion
	// info is the file's, and lasting tells that any change since would show
	// in it.
	info    fs.FileInfo
	lasting bool
}

// cipherVersion is one version, without its bytes.
type cipherVersion struct {
	number int
	state  State
	aead   cipher.AEAD
}

// settle is how old a file must be to be known by its time. File systems keep
// time in steps, some of them of two seconds: of two changes within one step, the
// second does not show.
const settle = 3 * time.Second

// load reads the file of one key.
func load(dir, key string) (*masterKey, error) {
	k, info, err := read(dir, key)
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	m := &masterKey{
		reference: k.reference(),
		versions:  make([]cipherVersion, len(k.versions)),
		info:      info,
		lasting:   time.Since(info.ModTime()) > settle,
	}
	for i, v := range k.versions {
		block, err := aes.NewCipher(v.kek[:])
		if err != nil {
			return nil, err // unreachable: the size is right
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err // unreachable: the block is of crypto/aes
		}
		m.versions[i] = cipherVersion{v.number, v.state, aead}
	}
	m.newest = &m.versions[k.newest().number-1]
	return m, nil
}

// isOf tells whether m is what stands in the file of info.
func (m *masterKey) isOf(info fs.FileInfo) bool {
	return m.lasting && os.SameFile(m.info, info) && m.info.Size() == info.Size() && m.info.ModTime().Equal(info.ModTime())
}

// version returns the version whose number is written so, or nil.
func (m *masterKey) version(number string) *cipherVersion {
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > len(m.versions) || strconv.Itoa(n) != number {
		return nil
	}
	return &m.versions[n-1]
}
