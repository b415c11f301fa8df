package gcpkms

import "google.golang.org/grpc/mem"

// minBuffer is the smallest buffer of a wipingPool. gRPC gives buffers of up to
// 1 KiB to the garbage collector instead of back to their pool
// (mem.IsBelowBufferPoolingThreshold), where nobody would wipe them.
const minBuffer = 2 << 10

// wipingPool hands out buffers for messages and wipes them when they come back.
type wipingPool struct{ mem.BufferPool }

func newWipingPool() mem.BufferPool {
	return wipingPool{mem.NewTieredBufferPool(minBuffer, 16<<10, 64<<10)}
}

// Put implements mem.BufferPool.
func (p wipingPool) Put(buf *[]byte) {
	clear((*buf)[:cap(*buf)])
	p.BufferPool.Put(buf)
}
