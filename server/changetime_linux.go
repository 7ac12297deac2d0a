package server

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime is when a file's content or metadata last changed. Unlike the modification time, it cannot be set.
func changeTime(info fs.FileInfo) time.Time {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(stat.Ctim.Unix())
	}
	return time.Time{}
}
