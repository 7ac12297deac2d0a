//go:build unix

package regular

import (
	"io/fs"
	"syscall"
)

// OwnerOf returns whom a file belongs to. It is not ok for a file that is in no file system, such as one of fstest's,
// and on systems whose users have no numbers.
func OwnerOf(info fs.FileInfo) (o Owner, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{}, false
	}
	return Owner{UID: stat.Uid, GID: stat.Gid, Links: uint64(stat.Nlink)}, true
}
