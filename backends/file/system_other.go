//go:build !unix || aix

package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Who may read a file is not known here, so nothing is opened.

func openNoFollow(path string) (*os.File, error) { return nil, unsupported(path) }

func ownerOf(fs.FileInfo) (uid int, ok bool) { return 0, false }

func lock(dir string) (*os.File, error) { return nil, unsupported(dir) }

func unsupported(path string) error {
	return fmt.Errorf("%s: no keyring can be kept on this system: %w", path, errors.ErrUnsupported)
}
