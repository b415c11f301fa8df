// Package bootclock is a clock for ages: it never stands still and is never set.
package bootclock
