// Package names checks the names of AWS roles and regions, and knows what they contain. It has no dependencies, so that
// every program of the module can refuse the same mistakes.
//
// Errors continue a sentence that begins with where the name came from, such as a variable.
package names

import (
	"fmt"
	"regexp"
	"strings"
)

// The shapes that AWS, and others with an STS of their own, give to names.
const (
	// RolePattern is the shape of a role's ARN. Its syntax and RegionPattern's are the part of RE2's that CEL and JSON Schema
	// share, for the manifests in deploy.
	RolePattern = `^arn:(?:[a-z][a-z0-9-]*:iam::(\d{12})?:role/(?:[!-~]+/)?[\w+=,.@-]+|minio:iam:[\w-]*::role/[\w+=,.@/-]+)$`

	// RegionPattern is the shape of a region's name, and "aws-global", the SDK's name for the global STS endpoint.
	RegionPattern = `^(?:aws-global|` + region + `)$`

	region = `[a-z]{2,6}(?:-[a-z]+)+-\d{1,2}`
)

var (
	roleShape     = regexp.MustCompile(RolePattern)
	regionShape   = regexp.MustCompile(RegionPattern)
	partitionName = []struct{ prefix, partition string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"us-isob-", "aws-iso-b"}, {"us-isof-", "aws-iso-f"},
		{"us-iso-", "aws-iso"}, {"eu-isoe-", "aws-iso-e"}, {"eusc-", "aws-eusc"},
	}
)

// These are compiled at each use: few starts need one.
func zoneShape() *regexp.Regexp { return regexp.MustCompile(`^(` + region + `)[a-z]$`) }
func issuerRegion() *regexp.Regexp {
	return regexp.MustCompile(`^https://oidc(?:-fips)?[.-]eks\.([a-z0-9-]+)\.`)
}

// CheckRegion returns what is wrong with the name of a region, or nil. Regions that do not exist yet are accepted.
func CheckRegion(region string) error {
	if regionShape.MatchString(region) {
		return nil
	}
	if zone := zoneShape().FindStringSubmatch(region); zone != nil {
		return fmt.Errorf("%q is an availability zone: its region is %s", region, zone[1])
	}
	return fmt.Errorf("%q is not the name of a region, such as eu-west-1", region)
}

// Partition returns the partition of a region: aws, aws-cn, aws-us-gov and so on.
func Partition(region string) string {
	for _, p := range partitionName {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}

// CheckRoleARN returns what is wrong with the ARN of a role, or nil. It accepts every partition, and the role ARNs of MinIO
// and Ceph, which have no account.
func CheckRoleARN(arn string) error {
	switch {
	case len(arn) > 2048:
		return fmt.Errorf("is longer than the 2048 characters that STS accepts")
	case roleShape.MatchString(arn):
		return nil
	case strings.HasPrefix(arn, "arn:") && strings.Contains(arn, ":instance-profile/"):
		return fmt.Errorf("%q is an instance profile: name the role in it", arn)
	case strings.HasPrefix(arn, "arn:") && strings.Contains(arn, ":assumed-role/"):
		return fmt.Errorf("%q is a session of a role: name the role itself, arn:aws:iam::<account>:role/<name>", arn)
	}
	return fmt.Errorf("%q is not a role's ARN, such as arn:aws:iam::111122223333:role/app", arn)
}

// RolePartition returns the partition in the ARN of a role, or "".
func RolePartition(arn string) string {
	_, rest, _ := strings.Cut(arn, ":")
	partition, _, _ := strings.Cut(rest, ":")
	return partition
}

// RoleAccount returns the account in the ARN of a role, or "": roles of MinIO and Ceph have none.
func RoleAccount(arn string) string {
	if m := roleShape.FindStringSubmatch(arn); m != nil {
		return m[1]
	}
	return ""
}

// RegionOfIssuer returns the region in the issuer URL of an EKS cluster, or "".
func RegionOfIssuer(issuer string) string {
	if m := issuerRegion().FindStringSubmatch(issuer); m != nil && CheckRegion(m[1]) == nil {
		return m[1]
	}
	return ""
}
