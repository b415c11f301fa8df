package envelope

import "fmt"

// cursor reads big-endian integers and length-prefixed text from the front of
// rest. Everything it returns aliases rest: no claimed length makes it allocate.
// After the first failure it returns zeros and empty strings, so that a caller
// may look at err once after several reads; a loop bounded by a number it read
// ends at once.
type cursor struct {
	rest string
	err  error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	c.rest = ""
}

// take returns the next n bytes.
func (c *cursor) take(n uint32) string {
	if uint64(n) > uint64(len(c.rest)) {
		c.fail("it is cut short")
		return ""
	}
	s := c.rest[:n]
	c.rest = c.rest[n:]
	return s
}

func (c *cursor) uint8() uint8 {
	s := c.take(1)
	if len(s) != 1 {
		return 0
	}
	return s[0]
}

func (c *cursor) uint16() uint16 {
	s := c.take(2)
	if len(s) != 2 {
		return 0
	}
	return uint16(s[0])<<8 | uint16(s[1])
}

func (c *cursor) uint32() uint32 {
	return uint32(c.uint16())<<16 | uint32(c.uint16())
}

func (c *cursor) uint64() uint64 {
	return uint64(c.uint32())<<32 | uint64(c.uint32())
}

func (c *cursor) text8() string  { return c.take(uint32(c.uint8())) }
func (c *cursor) text16() string { return c.take(uint32(c.uint16())) }
func (c *cursor) text32() string { return c.take(c.uint32()) }
