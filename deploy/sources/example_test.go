package sources_test

import (
	"fmt"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// A container that sets one of these variables may not ask the sidecar.
func ExampleFind() {
	for _, name := range []string{"AWS_REGION", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		v, before := sources.Find(name)
		fmt.Printf("%s %v %q\n", name, before, v.Kind)
	}
	fmt.Println(strings.Join(sources.Those(func(c *sources.Client) bool { return c.NumbersOnly }), ", "))
	// Output:
	// AWS_REGION false ""
	// AWS_CONTAINER_CREDENTIALS_RELATIVE_URI true "container"
	// Swift, async-aws, Fluent Bit
}
