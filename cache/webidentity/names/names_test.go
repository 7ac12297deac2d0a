package names

import (
	"strconv"
	"strings"
	"testing"
)

func TestRegionOfIssuer(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE":      "eu-west-1",
		"https://oidc.eks.us-gov-west-1.amazonaws.com/id/EXAMPLE":  "us-gov-west-1",
		"https://oidc.eks.cn-north-1.amazonaws.com.cn/id/EXAMPLE":  "cn-north-1",
		"https://oidc.eks.eusc-de-east-1.amazonaws.eu/id/EXAMPLE":  "eusc-de-east-1",
		"https://oidc-fips.eks.us-east-1.amazonaws.com/id/EXAMPLE": "us-east-1",
		"https://oidc-eks.eu-west-1.api.aws/id/EXAMPLE":            "eu-west-1", // dual-stack
		"":                               "",
		"https://kubernetes.default.svc": "",
		"http://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE":            "",
		"https://oidc.eks.eu-west-1":                                    "",
		"https://oidc.eks.eu-west.amazonaws.com/id/EXAMPLE":             "",
		"https://oidc.eks.amazonaws.com/id/EXAMPLE":                     "",
		"https://oidcxeks.eu-west-1.amazonaws.com/id/EXAMPLE":           "",
		"https://evil.example/https://oidc.eks.eu-west-1.amazonaws.com": "",
		"https://s3.eu-west-1.amazonaws.com/oidc":                       "",
	} {
		if got := RegionOfIssuer(issuer); got != want {
			t.Errorf("RegionOfIssuer(%q) = %q, want %q", issuer, got, want)
		}
	}
}

func TestCheckRegion(t *testing.T) {
	const no = "%q is not the name of a region, such as eu-west-1"
	for region, want := range map[string]string{
		"us-east-1": "", "ap-southeast-7": "", "mx-central-1": "", "il-central-1": "", "cn-northwest-1": "", "us-gov-east-1": "", "us-isob-east-1": "", "eusc-de-east-1": "",
		"eu-west-10": "", "aws-global": "", "fips-us-east-1": "",

		"eu-west-1a":       `%q is an availability zone: its region is eu-west-1`,
		"us-gov-west-1b":   `%q is an availability zone: its region is us-gov-west-1`,
		"us-west-2-lax-1a": `%q is an availability zone: its region is us-west-2`,
		"EU-WEST-1A":       `%q has capital letters or underscores and is an availability zone: its region is eu-west-1`,
		"EU-WEST-1":        `%q has capital letters or underscores; use eu-west-1`,
		"Eu-West-1":        `%q has capital letters or underscores; use eu-west-1`,
		"eu_west_1":        `%q has capital letters or underscores; use eu-west-1`,
		"eu-west-1 ":       `%q ends with a blank; use eu-west-1`,
		" eu-west-1":       `%q begins with a blank; use eu-west-1`,
		"eu-west-1\n":      `%q ends with a line break; use eu-west-1`,
		"eu-west-1\r":      `%q ends with a line break; use eu-west-1`,
		"\teu-west-1":      `%q begins with a tab; use eu-west-1`,
		`"eu-west-1"`:      `%q is in quotes; use eu-west-1`,
		"'eu-west-1'\n":    `%q ends with a line break and is in quotes; use eu-west-1`,
		"eu-west-1\u00a0":  `%q ends with the blank U+00A0; use eu-west-1`,
		"eu-\u200bwest-1":  `%q contains the invisible character U+200B; use eu-west-1`,
		"\ufeffeu-west-1":  `%q contains the invisible character U+FEFF; use eu-west-1`,
		"euw1-az1":         no, "": no, "eu-west-100": no, "eu-west": no, "eu-west-": no, "eu--west-1": no, "-west-1": no, "e-west-1": no, "euwest1": no, "eu west 1": no,
		"eu-west-1.evil.example/": no, "us-east-1-fips": no, "Ireland": no, "eu-west-١": no, "\u200b": no, `""`: no,
	} {
		checkMessage(t, region, CheckRegion(region), want)
	}
}

func TestZoneRegion(t *testing.T) {
	for zone, want := range map[string]string{
		"eu-west-1a": "eu-west-1", "us-gov-west-1b": "us-gov-west-1", "us-west-2-lax-1a": "us-west-2", "us-east-1-wl1-bos-wlz-1": "us-east-1",
		"eusc-de-east-1a": "eusc-de-east-1",
		"":                "", "eu-west-1": "", "eu-west-1A": "", "eu-west-1ab": "", "euw1-az1": "", "eu-west-1a\n": "", "a": "", "europe-west1-b": "",
	} {
		if got := ZoneRegion(zone); got != want {
			t.Errorf("ZoneRegion(%q) = %q, want %q", zone, got, want)
		}
	}
}

func TestPartition(t *testing.T) {
	for region, want := range map[string]string{
		"us-east-1": "aws", "aws-global": "aws", "": "aws", "us-west-2": "aws", "eu-south-2": "aws",
		"cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov", "us-iso-east-1": "aws-iso", "us-isob-east-1": "aws-iso-b",
		"us-isof-south-1": "aws-iso-f", "eu-isoe-west-1": "aws-iso-e", "eusc-de-east-1": "aws-eusc",
	} {
		if got := Partition(region); got != want {
			t.Errorf("Partition(%q) = %q, want %q", region, got, want)
		}
	}
}

func TestRoleAccount(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:iam::111122223333:role/app":                 "111122223333",
		"arn:aws-us-gov:iam::111122223333:role/a/b/app":      "111122223333",
		"arn:aws:iam::111122223333:role/x:iam::444:role/app": "111122223333",
		"arn:aws:iam:::role/ceph":                            "",
		"arn:minio:iam:::role/app":                           "",
		"app":                                                "",
		"":                                                   "",
	} {
		if got := RoleAccount(arn); got != want {
			t.Errorf("RoleAccount(%q) = %q, want %q", arn, got, want)
		}
	}
}

func TestRolePartition(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:iam::111122223333:role/app": "aws", "arn:aws-cn:iam::111122223333:role/app": "aws-cn", "arn:minio:iam:::role/app": "minio", "": "", "arn": "", "arn:": "",
	} {
		if got := RolePartition(arn); got != want {
			t.Errorf("RolePartition(%q) = %q, want %q", arn, got, want)
		}
	}
}

func TestCheckRoleARN(t *testing.T) {
	const no = "%q is not a role's ARN, such as arn:aws:iam::111122223333:role/app"
	role := "arn:aws:iam::111122223333:role/"
	for arn, want := range map[string]string{
		role + "app": "", role + "a": "", role + "team/app": "", role + "a/b/c/app": "", role + "App_1+=,.@-": "", role + "aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_x": "",
		role + "odd!path~/app":                      "", // STS's rule for a path is anything that prints
		"arn:aws-cn:iam::111122223333:role/app":     "",
		"arn:aws-us-gov:iam::111122223333:role/app": "",
		"arn:aws-iso-b:iam::111122223333:role/app":  "",
		"arn:aws-eusc:iam::111122223333:role/app":   "",
		"arn:minio:iam:::role/idp-1":                "",
		role + strings.Repeat("a", 2048-len(role)):  "",
		role + strings.Repeat("a", 2049-len(role)):  "is longer than the 2048 characters that STS accepts",

		"arn:aws:iam::111122223333:instance-profile/app":  "%q is an instance profile; use the ARN of the role in it",
		"arn:aws:sts::111122223333:assumed-role/app/name": "%q is a session of a role; use the role's own ARN, arn:aws:iam::111122223333:role/app, with its path if it has one",
		"arn:aws-cn:sts::111122223333:assumed-role/app":   "%q is a session of a role; use the role's own ARN, arn:aws-cn:iam::111122223333:role/app, with its path if it has one",
		"arn:aws:sts::x:assumed-role/a b/name":            "%q is a session of a role; use the role's own ARN, arn:aws:iam::<account>:role/<name>, with its path if it has one",
		"arn:aws:sts::111122223333:federated-user/me":     "%q is an ARN of another service; a role's begins with arn:aws:iam::",
		"arn:aws:s3:::bucket":                             "%q is an ARN of another service; a role's begins with arn:aws:iam::",
		"arn:aws:iam::111122223333:policy/app":            "%q is a policy; use the ARN of a role that has it",
		"arn:aws:iam::aws:policy/ReadOnlyAccess":          "%q is a policy; use the ARN of a role that has it",
		"arn:aws:iam::111122223333:user/app":              "%q is a user; use the ARN of a role",
		"arn:aws:iam::111122223333:group/app":             "%q is a group; use the ARN of a role",
		"arn:aws:iam::111122223333:root":                  "%q is an account; use the ARN of a role",
		"arn:aws:iam::111122223333:oidc-provider/x":       "%q is an OIDC provider; use the ARN of a role that trusts it",
		"arn:aws:iam::111122223333:saml-provider/x":       "%q is a SAML provider; use the ARN of a role",
		"arn:aws:iam::111122223333:roles/app":             "%q has something else where a role's ARN has role/<name>",
		"arn:aws:iam::111122223333:app":                   "%q has something else where a role's ARN has role/<name>",
		"arn:aws:iam::11112222333:role/app":               "%q has an account of 11 digits; expected 12",
		"arn:aws:iam::1111222233334:role/app":             "%q has an account of 13 digits; expected 12",
		"arn:aws:iam::ACCOUNT:role/app":                   "%q has something else where the account belongs, which is 12 digits",
		"arn:aws:iam:: 111122223333:role/app":             "%q has something else where the account belongs, which is 12 digits",
		role:                                              "%q has no name after role/", role + "/": "%q has no name after role/",

		role + "app ":                                 "%q ends with a blank; use " + role + "app",
		" " + role + "app":                            "%q begins with a blank; use " + role + "app",
		role + "app\n":                                "%q ends with a line break; use " + role + "app",
		role + "app\r\n":                              "%q ends with a line break; use " + role + "app",
		"\t" + role + "app":                           "%q begins with a tab; use " + role + "app",
		role + "app\u00a0":                            "%q ends with the blank U+00A0; use " + role + "app",
		role + "ap\u200bp":                            "%q contains the invisible character U+200B; use " + role + "app",
		"\ufeff" + role + "app":                       "%q contains the invisible character U+FEFF; use " + role + "app",
		`"` + role + `app"`:                           "%q is in quotes; use " + role + "app",
		"'" + role + "app'":                           "%q is in quotes; use " + role + "app",
		"“" + role + "app”":                           "%q is in quotes; use " + role + "app",
		`" ` + role + `app"` + "\n":                   "%q ends with a line break and is in quotes and begins with a blank; use " + role + "app",
		"arn:AWS:iam::111122223333:role/app":          "%q has capital letters where AWS has small ones; use " + role + "app",
		"ARN:aws:iam::111122223333:role/app":          "%q has capital letters where AWS has small ones; use " + role + "app",
		"arn:aws:IAM::111122223333:role/App":          "%q has capital letters where AWS has small ones; use " + role + "App",
		"arn:aws:iam::111122223333:Role/app":          "%q has capital letters where AWS has small ones; use " + role + "app",
		"arn:aws:iam:eu-west-1:111122223333:role/app": "%q contains a region, which no role has; use " + role + "app",
		"arn:aws:iam::1111-2222-3333:role/app":        "%q has hyphens in the account; use " + role + "app",
		"arn:aws:iam:111122223333:role/app":           "%q lacks a colon after iam; use " + role + "app",

		"app":                              "%q is the name of a role; use its ARN, arn:aws:iam::<account>:role/<name>",
		"app\n":                            "%q is the name of a role; use its ARN, arn:aws:iam::<account>:role/<name>",
		strings.Repeat("a", 64):            "%q is the name of a role; use its ARN, arn:aws:iam::<account>:role/<name>",
		strings.Repeat("a", 65):            no,
		"role/app":                         "%q is the end of a role's ARN; use all of it, arn:aws:iam::<account>:role/<name>",
		"/team/app":                        "%q is the end of a role's ARN; use all of it, arn:aws:iam::<account>:role/<name>",
		"AROADBQP57FF2AEXAMPLE":            "%q is the ID of a role; use its ARN, arn:aws:iam::<account>:role/<name>",
		"111122223333":                     "%q is the number of an account; use the role's ARN, arn:aws:iam::<account>:role/<name>",
		"https://console.aws.amazon.com/x": "%q is a URL; use the role's ARN, arn:aws:iam::<account>:role/<name>",
		"arn:aws:iam::<account>:role/app":  "%q contains a placeholder that was never filled in",
		"arn:aws:iam::${ACCOUNT}:role/app": "%q contains a placeholder that was never filled in",
		"{{ .Values.role }}":               "%q contains a placeholder that was never filled in",
		"$ROLE":                            "%q contains a placeholder that was never filled in",
		role + "app," + role + "b":         "%q contains more than one ARN; expected one",
		"":                                 no, role + "app/": no, role + "team/": no, role + "a b": no, role + "té/app": no, "a b": no, "arn:aws": no, "arn:minio:iam::minio:role/idp": "%q has something else where the account belongs, which is 12 digits",
	} {
		checkMessage(t, arn, CheckRoleARN(arn), want)
	}
}

// checkMessage wants err to say want, in which %q stands for the value; an empty want wants no error.
func checkMessage(t *testing.T, value string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if want = strings.ReplaceAll(want, "%q", strconv.Quote(value)); got != want {
		t.Errorf("%q: %q, want %q", value, got, want)
	}
}

// What is meant is right, and what is right needs no guess.
func TestWhatIsMeant(t *testing.T) {
	for text, want := range map[string]string{
		"arn:aws:iam::111122223333:role/app\n": "arn:aws:iam::111122223333:role/app", "arn:aws:iam::111122223333:role/app": "", "app": "", "": "",
		"arn:aws:sts::111122223333:assumed-role/app/name":                "", // its path is not known
		strings.Repeat(" ", 2048) + "arn:aws:iam::111122223333:role/app": "",
	} {
		if got := RoleARNMeant(text); got != want || got != "" && CheckRoleARN(got) != nil {
			t.Errorf("RoleARNMeant(%q) = %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{"eu-west-1": "", "EU_WEST_1\t": "eu-west-1", "eu-west-1a": "eu-west-1", "Ireland": "", "": ""} {
		if got := RegionMeant(text); got != want || got != "" && CheckRegion(got) != nil {
			t.Errorf("RegionMeant(%q) = %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{"/a/token": "", "/a/token ": "ends with a blank", "/a/b c": "", "\"/a\"": "is in quotes", "": ""} {
		if bare, why := Bare(text); why != want || strings.Trim(text, ` "`) != bare {
			t.Errorf("Bare(%q) = %q, %q, want %q", text, bare, why, want)
		}
	}
}
