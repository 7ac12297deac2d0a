package world

import (
	"os"
	"os/exec"
	"sync"
)

// LogPipe is a log driver: the far end of a sidecar's stderr, which may stop reading, or go.
type LogPipe struct {
	Stopped sync.Mutex // held, nothing is read
	Reader  *os.File
}

// Between returns a function that starts a program with the pipe in the place of its log, where what is read goes.
func (p *LogPipe) Between(start func(*exec.Cmd) error) func(*exec.Cmd) error {
	return func(cmd *exec.Cmd) error {
		log, err := os.OpenFile(cmd.Stderr.(*os.File).Name(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer w.Close()
		p.Reader, cmd.Stderr = r, w
		if err := start(cmd); err != nil {
			return err
		}
		go func() {
			defer log.Close()
			buffer := make([]byte, 4<<10)
			for {
				n, err := r.Read(buffer)
				p.Stopped.Lock()
				log.Write(buffer[:n])
				p.Stopped.Unlock()
				if err != nil { // its end, or ours
					return
				}
			}
		}()
		return nil
	}
}
