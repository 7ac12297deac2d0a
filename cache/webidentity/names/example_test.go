package names_test

import (
	"fmt"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

func ExampleCheckRoleARN() {
	for _, arn := range []string{
		"arn:aws:iam::111122223333:role/team/app",
		"arn:aws:iam::111122223333:instance-profile/app",
		"app",
	} {
		if err := names.CheckRoleARN(arn); err != nil {
			fmt.Println("AWS_ROLE_ARN", err)
			continue
		}
		fmt.Println(names.RoleAccount(arn), names.RolePartition(arn))
	}
	// Output:
	// 111122223333 aws
	// AWS_ROLE_ARN "arn:aws:iam::111122223333:instance-profile/app" is an instance profile; use the ARN of the role in it
	// AWS_ROLE_ARN "app" is the name of a role; use its ARN, arn:aws:iam::<account>:role/<name>
}

func ExampleCheckRegion() {
	fmt.Println(names.CheckRegion("eu-west-1"))
	fmt.Println("AWS_REGION", names.CheckRegion("eu-west-1a"))
	// Output:
	// <nil>
	// AWS_REGION "eu-west-1a" is an availability zone: its region is eu-west-1
}

func ExampleRegionOfIssuer() {
	region := names.RegionOfIssuer("https://oidc.eks.cn-north-1.amazonaws.com.cn/id/EXAMPLED539D4633E53DE1B71EXAMPLE")
	fmt.Println(region, names.Partition(region))
	// Output: cn-north-1 aws-cn
}
