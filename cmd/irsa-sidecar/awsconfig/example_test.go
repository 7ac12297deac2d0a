package awsconfig_test

import (
	"fmt"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/awsconfig"
)

func ExampleParse() {
	file := awsconfig.Parse([]byte(`[default]
region = eu-west-1

[profile app]
role_arn : arn:aws:iam::111122223333:role/app
Output = json # not YAML
s3 =
  max_concurrent_requests = 20
nonsense
`))
	for _, s := range file.Sections {
		fmt.Println(s.Header(), s.IsProfile())
		for _, k := range s.Settings {
			fmt.Printf("%d: %s = %s %d %t\n", k.Line, k.Key, k.Value, len(k.Block), k.Disputed() != "")
		}
	}
	for _, m := range file.Mistakes {
		fmt.Println("line", m.Line, m.Section, m.Text)
	}
	// Output:
	// [default] true
	// 2: region = eu-west-1 0 false
	// [profile app] true
	// 5: role_arn = arn:aws:iam::111122223333:role/app 0 false
	// 6: output = json # not YAML 0 true
	// 7: s3 =  1 true
	// line 9 [profile app] has no = after a key
}
