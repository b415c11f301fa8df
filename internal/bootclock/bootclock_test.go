package bootclock_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/internal/bootclock"
)

func TestNowIsTheUptime(t *testing.T) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Skipf("no /proc/uptime to compare with: %v", err)
	}
	uptime, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	// /proc/uptime is CLOCK_BOOTTIME too, read a moment earlier.
	if now := float64(bootclock.Now().UnixNano()) / 1e9; now < uptime-0.02 {
		t.Errorf("the boot clock says %f s, /proc/uptime says %f s", now, uptime)
	}
}

func TestNowNeverGoesBack(t *testing.T) {
	last := bootclock.Now()
	for range 1000 {
		now := bootclock.Now()
		if now.Before(last) {
			t.Fatalf("it went back by %v", last.Sub(now))
		}
		last = now
	}
	if last.After(time.Unix(1<<39, 0)) {
		t.Error("the clock could not be read")
	}
}
