package world

import (
	"os"
	"os/exec"
	"sync"
)

// LogPipe is a log driver: the other end of a sidecar's stderr. It can stop reading, or close.
type LogPipe struct {
	Stopped sync.Mutex // while it is held, nothing is read
	Reader  *os.File
}

// Between returns a function that starts a program with the pipe before its log; what is read goes to the log.
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
				if err != nil { // either end is closed
					return
				}
			}
		}()
		return nil
	}
}
