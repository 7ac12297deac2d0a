//go:build unix

package regular

import (
	"io/fs"
	"syscall"
)

// OwnerOf returns the owner of a file. It is not ok on systems whose users have no numbers, and for a file that is not on
// a file system, such as one of fstest's.
func OwnerOf(info fs.FileInfo) (o Owner, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{}, false
	}
	return Owner{UID: stat.Uid, GID: stat.Gid, Linked: stat.Nlink > 1}, true
}
