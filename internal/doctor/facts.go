package doctor

// Facts are what was found out about a host, before anything is made of it.
type Facts struct {
	Callers Callers
	Swap    Swap
	Clock   Clock
	// Memory and Disk are nil if they were not looked at.
	Memory *Memory
	Disk   *Disk
}

// Callers is what the kernel tells of the callers on a unix socket.
type Callers struct {
	// Err is why no socket could be had to ask with.
	Err error
	// PIDFD tells that the kernel has SO_PEERPIDFD (Linux 6.5, socket(7)).
	PIDFD bool
	// UIDMap is /proc/self/uid_map, as user_namespaces(7) has it; empty if it
	// could not be read.
	UIDMap string
}

// Swap is where memory that is not locked may be written.
type Swap struct {
	// Table is /proc/swaps: a heading, then a line for each swap area.
	Table string
	// Err is why Table could not be read.
	Err error
}

// Clock is how the kernel keeps the time.
type Clock struct {
	// Synchronized is false if adjtimex(2) returns TIME_ERROR.
	Synchronized bool
	// Err is why the kernel could not be asked.
	Err error
}

// Memory is what came of locking as much memory as the broker would.
type Memory struct {
	// Err is why there was no memory at all, locked or not.
	Err error
	// Unlocked is why the memory was not locked; empty if it was.
	Unlocked string
	// Kind is how it was protected, in the words of internal/secret.
	Kind string
}

// Disk is the file system of the audit log's directory.
type Disk struct {
	Dir string
	// StatErr is why nothing is known of it; the fields below are zero then.
	StatErr error
	// ReadOnly tells that it is mounted so.
	ReadOnly bool
	// UID is this process's. AccessErr is why it may not make files in Dir; nil
	// if it may.
	UID       int
	AccessErr error
	// FreeBytes is what is left for a user who is not root.
	FreeBytes uint64
}
