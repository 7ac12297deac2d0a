package redact_test

import (
	"fmt"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// What others say may quote a secret.
func ExampleScrub() {
	fmt.Println(redact.Scrub("proxy http://user:password@10.0.0.1:3128 refused Authorization: Bearer 0123456789abcdef"))
	// Output: proxy http://[redacted]@10.0.0.1:3128 refused Authorization: Bearer [redacted]
}
