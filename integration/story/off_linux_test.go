package story

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// An output that is off costs no goroutine and no open file: all that it needs is there only once it is on. What it costs in memory
// is in make bench-check, in the rows "at rest".
func TestAnOutputThatIsOffCostsNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, row := range map[string]struct {
		env  []string
		cost string // besides that of none
	}{
		"an empty variable for each": {[]string{"IRSA_SIDECAR_ECS_LISTEN=", "IRSA_SIDECAR_IMDS_LISTEN=", "IRSA_SIDECAR_SOCKET=", "IRSA_SIDECAR_CREDENTIALS_FILE=", "IRSA_SIDECAR_PROCESS_FILE="}, ""},
		"ECS":                        {[]string{"IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0"}, "1 × TCP listener, 2 × goroutine"},
		"IMDS":                       {[]string{"IRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0"}, "1 × TCP listener, 2 × goroutine"},
		"IMDS at two addresses":      {[]string{"IRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0,127.0.0.2:0"}, "2 × TCP listener, 4 × goroutine"},
		"the socket":                 {[]string{"IRSA_SIDECAR_SOCKET=" + filepath.Join(dir, "s")}, "1 × Unix listener, 3 × goroutine"},
		"files":                      {[]string{"IRSA_SIDECAR_CREDENTIALS_FILE=" + filepath.Join(dir, "c"), "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true", "IRSA_SIDECAR_PROCESS_FILE=" + filepath.Join(dir, "p")}, "1 × goroutine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got string
			for range 3 { // a goroutine may happen to be about to end; one that stays is there each time
				if got = besides(costOf(t), costOf(t, row.env...)); got == row.cost {
					return
				}
			}
			t.Errorf("it costs besides %q, want %q", got, row.cost)
		})
	}
}

// besides says what is in one cost and not in the other.
func besides(off, on map[string]int) string {
	for what, n := range off {
		if on[what] -= n; on[what] == 0 {
			delete(on, what)
		}
	}
	var list []string
	for _, what := range slices.Sorted(maps.Keys(on)) {
		list = append(list, fmt.Sprintf("%d × %s", on[what], what))
	}
	return strings.Join(list, ", ")
}

// costOf returns the open files and the goroutines of a sidecar that waits for callers: how many there are of each kind. What
// belongs to a connection does not count.
func costOf(t *testing.T, env ...string) map[string]int {
	t.Helper()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, env...)
	world.Eventually(t, world.Soon, "credentials", func() bool {
		status, _ := s.OpsPage(t, "/readyz")
		return status == http.StatusOK
	})
	cost := make(map[string]int)
	proc := fmt.Sprintf("/proc/%d/", s.Cmd.Process.Pid)
	listed := func(table string) []string {
		return strings.Split(string(world.ReadFile(t, proc+"net/"+table)), "\n")
	}
	tcp, unix := append(listed("tcp"), listed("tcp6")...), listed("unix")
	has := func(lines []string, inode string) (fields []string) {
		for _, line := range lines {
			if fields := strings.Fields(line); slices.Contains(fields, inode) {
				return fields
			}
		}
		return nil
	}
	files, err := os.ReadDir(proc + "fd")
	if errors.Is(err, fs.ErrPermission) {
		world.NotRun(t, "root", "only root sees the open files of a sidecar: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		what, err := os.Readlink(proc + "fd/" + file.Name())
		if errors.Is(err, fs.ErrNotExist) { // it has been closed since
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if inode, ok := strings.CutPrefix(what, "socket:["); ok {
			inode = strings.TrimSuffix(inode, "]")
			if socket := has(tcp, inode); socket != nil {
				if socket[3] != "0A" { // listening
					continue
				}
				what = "TCP listener"
			} else if what = "another socket"; has(unix, inode) != nil {
				what = "Unix listener"
			}
		}
		if strings.HasSuffix(what, "/log") { // of the test
			what = "log"
		}
		cost[what]++
	}
	s.Traced = true
	if err := s.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-s.Ended
	for _, trace := range strings.Split(s.Output(t), "\n\ngoroutine ")[1:] {
		_, creator, _ := strings.Cut(trace, "\ncreated by ")
		if !strings.HasPrefix(creator, "net/http.") && !strings.HasPrefix(creator, "runtime.") { // connections' and the collector's
			cost["goroutine"]++
		}
	}
	return cost
}
