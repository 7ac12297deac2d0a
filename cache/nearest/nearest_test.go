package nearest

import "testing"

func TestTheNearestWordIsFound(t *testing.T) {
	commands := []string{"serve", "wait", "healthcheck", "reload", "shutdown", "install", "doctor", "credentials", "version", "help", "exec"}
	variables := []string{"LISTEN", "OPS_LISTEN", "AUTHORIZATION_TOKEN", "AUTHORIZATION_TOKEN_FILE", "POLICY_FILE", "POLICY_ARNS", "LOG_LEVEL", "DURATION"}
	for _, row := range []struct {
		word       string
		candidates []string
		want       string
	}{
		{"sevre", commands, "serve"},
		{"wiat", commands, "wait"}, // a swap is one mistake, not two
		{"Wait", commands, "wait"},
		{"doctr", commands, "doctor"},
		{"health", commands, "healthcheck"},
		{"credential", commands, "credentials"},
		{"versions", commands, "version"},
		{"he", commands, ""},
		{"foo", commands, ""},
		{"", commands, ""},
		{"wxyz", commands, ""},
		{"wait", nil, ""},
		{"LISTN", variables, "LISTEN"},
		{"AUTHORISATION_TOKEN", variables, "AUTHORIZATION_TOKEN"},
		{"AUTHORIZATION_TOKENFILE", variables, "AUTHORIZATION_TOKEN_FILE"},
		{"TOKEN_FILE", variables, "AUTHORIZATION_TOKEN_FILE"},
		{"POLICY_ARN", variables, "POLICY_ARNS"},
		{"COLOUR", variables, ""},
		{"PORT", variables, ""},
		{"warning", []string{"debug", "info", "warn", "error"}, "warn"},
		{"verbose", []string{"debug", "info", "warn", "error"}, ""},
		{"txt", []string{"json", "text"}, "text"},
		{"\xff\xfe\x00", commands, ""},
	} {
		if got := Word(row.word, row.candidates); got != row.want {
			t.Errorf("Word(%q) = %q, want %q", row.word, got, row.want)
		}
	}
}

func TestDistanceCountsMistakes(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "acb", 1}, {"abcd", "badc", 2},
		{"kitten", "sitting", 3}, {"ca", "abc", 3}, {"abc", "xyz", 3},
	} {
		if got, back := distance(row.a, row.b), distance(row.b, row.a); got != row.want || back != row.want {
			t.Errorf("distance(%q, %q) = %d, and the other way round %d, want %d", row.a, row.b, got, back, row.want)
		}
	}
}
