package server

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime is when a file was last written or given other times, which nobody can put back.
func changeTime(info fs.FileInfo) time.Time {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(stat.Ctim.Unix())
	}
	return time.Time{}
}
