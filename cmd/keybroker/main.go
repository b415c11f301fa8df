// Command keybroker is the broker daemon and the tool that operates it.
//
// Each command is one file; what it does beyond parsing flags and printing is in
// a package of its own. This package alone knows all the others, and wires them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, systemEnv(), os.Args[1:]))
}
