package nearest_test

import (
	"fmt"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
)

// An error about a mistyped word ends with the right one.
func ExampleDidYouMean() {
	fmt.Println(`unknown command "doctr"` + nearest.DidYouMean("doctr", []string{"serve", "doctor"}))
	// Output: unknown command "doctr"; did you mean "doctor"?
}
