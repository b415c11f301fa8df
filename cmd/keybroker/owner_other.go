//go:build !unix

package main

import (
	"io/fs"
	"os"
)

// keepOwner has nothing to do: there are no owners as Unix knows them.
func keepOwner(*os.File, fs.FileInfo) error { return nil }
