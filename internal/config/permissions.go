package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// fileUse says who may do what with a file that the configuration names.
type fileUse uint8

const (
	// private: only root and the broker's user may read or write it (see isShared).
	private fileUse = iota + 1
	// trusted: everyone may read it, only root and the broker's user write it.
	trusted
	// projected: like trusted. It is a token that the kubelet writes, with a mode
	// that the Pod's author does not choose, in a volume of the broker's own.
	projected
	// keyring is a private directory, and the keys' files in it are.
	keyring
	// keyringKey is a file in one. Not even root shares it with a group.
	keyringKey
	// parent is the directory of a file that the broker makes. It may be missing
	// still: systemd makes some (RuntimeDirectory=, LogsDirectory=, a socket's own).
	parent
	// secretKey is private, and ReadSecretKey takes it.
	secretKey
	// sealKey is private, and has MinPersistKey to MaxPersistKey bytes.
	sealKey
	// tpmDevice is a device that may be missing, and apart a file that should not be on
	// the same file system as another. Both are only warned of.
	tpmDevice
	apart
)

// neededFile is a file that the configuration names.
type neededFile struct {
	path string
	use  fileUse
	// doubtful: if there is no such file, the path may be the secret itself.
	doubtful bool
	// mode is what a directory that is missing should be made with.
	mode fs.FileMode
	// from is the file that it should be apart from.
	from string
	// at is where it is named; Found and Want are filled in.
	at Problem
}

// checkFiles reports the files that are missing or open to others, and warns of
// directories that are missing.
func (w *walker) checkFiles() {
	for _, f := range w.files {
		if warn := f.warning(); warn != nil {
			if found, want := warn(); found != "" {
				f.at.Found, f.at.Want = found, want
				w.warnings = append(w.warnings, f.at)
			}
			continue
		}
		found, want := f.check()
		if found == "" && f.use == keyring {
			found, want = f.checkKeys()
		}
		if found != "" {
			f.at.Found, f.at.Want = found, want
			w.problems = append(w.problems, f.at)
		}
	}
}

// warning is the check of a file that is only warned of, nil for others.
func (f neededFile) warning() func() (found, want string) {
	switch f.use {
	case parent:
		return f.checkParent
	case tpmDevice:
		return f.checkTPM
	case apart:
		return f.checkApart
	default:
		return nil
	}
}

// checkParent looks whether there is a directory for the file at path.
func (f neededFile) checkParent() (found, want string) {
	dir := filepath.Dir(f.path)
	switch info, err := os.Stat(dir); {
	case err == nil && info.IsDir():
		return "", ""
	case err == nil:
		return fmt.Sprintf("%s, which is a %s", dir, kind(info.Mode())), "a directory"
	case errors.Is(err, fs.ErrNotExist):
		return "no directory " + dir, fmt.Sprintf("it made before the broker starts, by its unit or by install -d -m %04o -o USER -g GROUP %s", f.mode, dir)
	default:
		return dir + ": " + reason(err), "a directory that the broker's user may use"
	}
}

// keyringExtension is how the names of keys' files in a keyring end.
const keyringExtension = ".keyring"

// checkKeys looks at the files of the keys in a keyring, up to the first that is
// not as the backend demands.
func (f neededFile) checkKeys() (found, want string) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return f.path + ": " + reason(err), "a directory that the broker's user may read"
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != keyringExtension {
			continue
		}
		key := neededFile{path: filepath.Join(f.path, e.Name()), use: keyringKey}
		if e.Type()&fs.ModeSymlink != 0 {
			return key.path + ", which is a symbolic link", "the file itself there"
		}
		if found, want := key.check(); found != "" {
			return found, want
		}
	}
	return "", ""
}

func (f neededFile) check() (found, want string) {
	what := "file"
	if f.use == keyring {
		what = "directory"
	}
	info, err := os.Stat(f.path)
	if err != nil {
		want := "a " + what + " that the broker's user may read"
		if f.use == keyring {
			want += "; `keybroker keyring create` makes one"
		}
		if f.doubtful && !errors.Is(err, fs.ErrPermission) {
			return "a path from the configuration's directory that leads to no file", want + ", and its path here; never the secret itself"
		}
		return f.path + ": " + reason(err), want
	}
	if info.IsDir() != (f.use == keyring) || !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Sprintf("%s, which is a %s", f.path, kind(info.Mode())), "a " + what
	}
	uid, ok := owner(info)
	if !ok {
		return f.path + ", whose owner is not known on this system", "a system that tells"
	}
	mode := info.Mode().Perm()
	is := fmt.Sprintf("%s, of mode %04o and uid %d", f.path, mode, uid)
	if !isOurs(uid) {
		return is, fmt.Sprintf("a %s of root or the broker's user (uid %d)%s", what, os.Geteuid(), asRoot())
	}
	switch f.use {
	case trusted, projected:
		if mode&0o022 != 0 {
			return is + ": others may write it", "a file that only root and the broker's user may write" + chmod("go-w", f.path)
		}
	case private, secretKey, sealKey:
		if mode&0o077 != 0 && (!isShared(uid) || mode&0o037 != 0) {
			return is + ": others may use it", "mode 0600" + chmod("go=", f.path) + asRoot()
		}
	case keyringKey:
		if mode&0o077 != 0 {
			return is + ": others may use it", "mode 0600" + chmod("go=", f.path)
		}
	case keyring:
		if mode&0o077 != 0 { // as the backend has it
			return is + ": others may use it", "mode 0700" + chmod("go=", f.path)
		}
	}
	if err := opens(f.path); err != nil {
		return is + ": " + reason(err), "a " + what + " that the broker's user may read"
	}
	switch f.use {
	case secretKey:
		return wrongSecretKey(f.path)
	case sealKey:
		return wrongSealKey(f.path, info)
	default:
		return "", ""
	}
}

// opens tells whether the file or directory can be read; it reads nothing of it.
func opens(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// isShared tells whether a file of uid is one that root shares with the broker's
// user: only there may the group read. It is how systemd hands over credentials
// (the user's ACL shows as the group's bits) and Kubernetes volumes with an
// fsGroup. The broker's own files need no group.
func isShared(uid uint32) bool { return uid == 0 && os.Geteuid() != 0 }

// chmod is the command that helps.
func chmod(change, path string) string { return fmt.Sprintf(" (chmod %s %s)", change, path) }

// asRoot is a hint for who checks as root what another user will serve.
func asRoot() string {
	if os.Geteuid() != 0 {
		return ""
	}
	return "; this was checked as root: check as the user that serves, whose files and groups count"
}

// checkWriters reports a configuration that others could have written: the file
// itself, and the directories in which they could put another in its place, those
// of all links that lead to it included.
func (w *walker) checkWriters(path string, info fs.FileInfo) {
	w.checkWriter(path, info)
	for _, dir := range linkDirs(path) {
		info, err := os.Stat(dir)
		if err != nil {
			w.whole(dir+": "+reason(err), "its directory to be readable")
			continue
		}
		w.checkWriter(dir, info)
	}
}

// linkDirs are the directories of path, of each link that follows from it, and of
// the file at the end, each once.
func linkDirs(path string) []string {
	var dirs []string
	for range 40 { // as many as the kernel follows (path_resolution(7))
		dir := filepath.Dir(path)
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return dirs
}

func (w *walker) checkWriter(path string, info fs.FileInfo) {
	what := kind(info.Mode())
	uid, ok := owner(info)
	if !ok {
		w.whole(path+", whose owner is not known on this system", "a system that tells")
		return
	}
	if info.IsDir() && readOnly(path) {
		// Nobody can put another file there, whatever the mode says: the directory
		// of a ConfigMap has mode 0777.
		return
	}
	is := fmt.Sprintf("the %s %s, of mode %04o and uid %d", what, path, mode(info), uid)
	if !isOurs(uid) {
		w.whole(is, fmt.Sprintf("a %s of root or the broker's user (uid %d)%s", what, os.Geteuid(), asRoot()))
		return
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode()&0o022 != 0 && !sticky {
		w.whole(is+": others may write it", fmt.Sprintf("only root and the broker's user to write it (chmod go-w %s)", path))
	}
}

// mode is the mode as chmod(1) takes it.
func mode(info fs.FileInfo) uint32 {
	m := uint32(info.Mode().Perm())
	if info.Mode()&fs.ModeSticky != 0 {
		m |= 0o1000
	}
	return m
}

// isOurs tells whether uid is root or the broker's.
func isOurs(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }
