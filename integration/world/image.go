package world

import (
	"regexp"
	"strconv"
	"testing"
)

// ImageFacts say who may read the program in the image, and as which user it runs.
type ImageFacts struct {
	User, Group int
	Mode        int64
}

// ShippedImage reads the facts in the Dockerfile.
func ShippedImage(t *testing.T) (facts ImageFacts) {
	t.Helper()
	text := string(ReadFile(t, Path(t, "Dockerfile")))
	number := func(pattern string, base int) int64 {
		t.Helper()
		all := regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1)
		if len(all) != 1 {
			t.Fatalf("the Dockerfile has %d lines with %s", len(all), pattern)
		}
		n, err := strconv.ParseInt(all[0][1], base, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	facts.User = int(number(`(?m)^USER (\d+):\d+$`, 10))
	facts.Group = int(number(`(?m)^COPY --from=build --chown=0:(\d+) /rootfs /$`, 10))
	facts.Mode = number(`install -D -m (\d+) /irsa-sidecar /rootfs/irsa-sidecar `, 8)
	return facts
}
