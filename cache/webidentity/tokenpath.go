package webidentity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

const usualPath = "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"

// setPath is the hint to use another path.
func setPath(path string) string {
	return "set AWS_WEB_IDENTITY_TOKEN_FILE to " + presentable(redact.Scrub(path), maxName)
}

// fileFault turns an error of [regular.Read] into what is wrong at a token's path.
func fileFault(path string, err error) *cache.FetchError {
	bare, why := names.Bare(path)
	named := "token file " + path
	if why != "" {
		named = "token file " + strconv.Quote(path)
	}
	fail := func(reason cache.Reason, what, hint string) *cache.FetchError {
		return &cache.FetchError{Reason: reason, Message: named + " " + what, Hint: hint}
	}
	if _, tooLong := errors.AsType[regular.TooLong](err); tooLong {
		return fail(cache.TokenFileMalformed, errTokenTooLong.Error(), "")
	}
	unreadable := func(what, hint string) *cache.FetchError { return fail(cache.TokenFileUnreadable, what, hint) }
	switch {
	case why != "" && !errors.Is(err, fs.ErrPermission):
		return fail(cache.TokenFileMissing, "does not exist: the path "+why, setPath(bare))
	case errors.Is(err, fs.ErrNotExist):
		what, hint := missing(path)
		return fail(cache.TokenFileMissing, what, hint)
	case errors.Is(err, fs.ErrPermission):
		what := fmt.Sprintf("may not be read by uid %d", os.Geteuid())
		if closed := closedDirectory(path); closed != "" {
			what += ": it may not enter the directory " + closed
		}
		return unreadable(what, "")
	case errors.Is(err, regular.ErrDirectory):
		return unreadable(err.Error(), "set AWS_WEB_IDENTITY_TOKEN_FILE to the token file in it, such as "+presentable(redact.Scrub(filepath.Join(path, "token")), maxName))
	case errors.Is(err, regular.ErrNotRegular), errors.Is(err, syscall.ENXIO):
		return unreadable(kindOf(path), "set AWS_WEB_IDENTITY_TOKEN_FILE to the projected token, such as "+usualPath)
	case errors.Is(err, syscall.ENOTDIR):
		file := fileOnTheWay(path)
		return unreadable("cannot be read: "+file+" is a file and not a directory", setPath(file))
	case errors.Is(err, syscall.ELOOP):
		return unreadable("cannot be read: its symbolic links lead back to themselves", "mount the projected volume as a directory, and "+setPath(usualPath))
	case errors.Is(err, syscall.ENAMETOOLONG):
		return unreadable(fmt.Sprintf("cannot be read: a path of %d characters, or a name in it, is longer than the system allows", len(path)), setPath(usualPath))
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ENODEV):
		return unreadable(err.Error(), "the volume or the disk below it failed: recreate the Pod, on another node if that does not help")
	}
	return unreadable(err.Error(), "")
}

// TokenPathMeant returns the path of the token that a path certainly means which is not one, or "": without the white space
// or quotes around it, as a path instead of a URL, and the file instead of what cannot be in it.
func TokenPathMeant(path string) string {
	if bare, why := names.Bare(path); why != "" {
		return bare
	}
	if file, ok := strings.CutPrefix(path, "file://"); ok {
		return file
	}
	_, err := os.Stat(path)
	if errors.Is(err, syscall.ENOTDIR) {
		return fileOnTheWay(path)
	}
	return ""
}

// missing says why there is nothing at a path, as a predicate, and what to do if that is certain.
func missing(path string) (what, hint string) {
	const whole = "write the whole path in AWS_WEB_IDENTITY_TOKEN_FILE, such as " + usualPath
	if file, ok := strings.CutPrefix(path, "file://"); ok {
		return "does not exist: the path is a URL", setPath(file)
	}
	switch {
	case strings.HasPrefix(path, "~"), strings.ContainsAny(path, "$%"):
		return "does not exist: no shell has replaced ~, $ or % in its path", whole
	case !filepath.IsAbs(path):
		directory, _ := os.Getwd()
		return "does not exist: the path is relative to " + directory, whole
	}
	if to, err := os.Readlink(path); err == nil {
		return "is a link to " + to + ", which does not exist", ""
	}
	return "does not exist", ""
}

// kindOf says what is at a path that is neither a file nor a directory, as a predicate.
func kindOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "is not a regular file"
	}
	switch mode := info.Mode(); {
	case mode&fs.ModeNamedPipe != 0:
		return "is a named pipe (FIFO), not a regular file"
	case mode&fs.ModeSocket != 0:
		return "is a socket, not a regular file"
	case mode&fs.ModeDevice != 0:
		return "is a device, not a regular file"
	}
	return "is not a regular file"
}

// fileOnTheWay returns the part of a path that is a file and should be a directory.
func fileOnTheWay(path string) string {
	for at := filepath.Dir(path); ; at = filepath.Dir(at) {
		if info, err := os.Stat(at); err == nil && !info.IsDir() || at == filepath.Dir(at) {
			return at
		}
	}
}

// closedDirectory returns the first directory on the way to a path that this process may not enter, or "".
func closedDirectory(path string) (closed string) {
	for at := filepath.Dir(filepath.Clean(path)); ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, ".") + string(filepath.Separator) + "."); errors.Is(err, fs.ErrPermission) {
			closed = at
		}
		if at == filepath.Dir(at) {
			return closed
		}
	}
}
