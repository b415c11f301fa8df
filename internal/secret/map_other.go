//go:build !linux

package secret

import "errors"

func mapLocked(int) (mapping, Kind, error) {
	return mapping{}, "", errors.New("this system has no locked memory that keybroker knows how to use")
}

func mapUnlocked(size int) (mapping, error) {
	slots := (size + SlotSize - 1) / SlotSize
	return mapping{bytes: make([]byte, slots*SlotSize), release: func() error { return nil }}, nil
}
