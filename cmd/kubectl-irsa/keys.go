package main

import "github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"

// The keys of what is found from outside of the Pod, beside those of [doctor.Entries].
const (
	podMissing            doctor.Key = "PodMissing"
	podNotRunning         doctor.Key = "PodNotRunning"
	mountFailed           doctor.Key = "MountFailed"
	windowsNode           doctor.Key = "WindowsNode"
	containerUnknown      doctor.Key = "ContainerUnknown"
	serviceAccountMissing doctor.Key = "ServiceAccountMissing"
	annotatedLater        doctor.Key = "AnnotatedLater"
	roleDiffers           doctor.Key = "RoleDiffers"
	containerSkipped      doctor.Key = "ContainerSkipped"
	webhookMissing        doctor.Key = "WebhookMissing"
	tokenNotMounted       doctor.Key = "TokenNotMounted"
	sidecarMissing        doctor.Key = "SidecarMissing"
	sidecarFailing        doctor.Key = "SidecarFailing"
	notVisible            doctor.Key = "NotVisible"

	// What AWS says.
	roleMissing    doctor.Key = "RoleMissing"
	rolePath       doctor.Key = "RolePath"
	otherAccount   doctor.Key = "OtherAccount"
	clusterDiffers doctor.Key = "ClusterDiffers"
	otherRole      doctor.Key = "OtherRole"
	policyDiffers  doctor.Key = "PolicyDiffers"
)

// entries are the keys as rows of docs/doctor.md, in Markdown.
var entries = []doctor.Entry{
	{Key: string(podMissing), Meaning: "The Pod does not exist, or not any more. A Pod that is replaced gets a new name."},
	{Key: string(podNotRunning), Meaning: "The Pod has not started, has completed, or is being deleted, so nothing can be run in it."},
	{Key: string(mountFailed), Meaning: "The kubelet cannot mount a volume of the Pod, such as the token's."},
	{Key: string(windowsNode), Meaning: "The Pod runs on a Windows node, and the sidecar's image is for Linux."},
	{Key: string(containerUnknown), Meaning: "The Pod has no container of the name that was given with `--container`."},
	{Key: string(serviceAccountMissing), Meaning: "The Pod's service account does not exist any more."},
	{Key: string(annotatedLater), Meaning: "The service account has the annotation, and the Pod lacks its variables: it was made before, or while the webhook did not answer. Only new Pods get them."},
	{Key: string(roleDiffers), Meaning: "The Pod has another role than its service account's annotation: it was made before the annotation changed, or its manifest names a role of its own."},
	{Key: string(containerSkipped), Meaning: "The annotation `eks.amazonaws.com/skip-containers` of the Pod keeps the webhook away from the container."},
	{Key: string(webhookMissing), Meaning: "The cluster has no webhook that reads the annotation `eks.amazonaws.com/role-arn`. EKS comes with one."},
	{Key: string(tokenNotMounted), Meaning: "No volume of the Pod has a service account token at the path in `AWS_WEB_IDENTITY_TOKEN_FILE`."},
	{Key: string(sidecarMissing), Meaning: "No container of the Pod is the sidecar, so the report has only what is known from outside."},
	{Key: string(sidecarFailing), Meaning: "The sidecar's container does not start, ends again and again, or is not ready."},
	{Key: string(roleMissing), Meaning: "The account has no role of this name: it was deleted, or the annotation is wrong."},
	{Key: string(rolePath), Meaning: "The role exists, and its ARN is not `AWS_ROLE_ARN`, most often because one of the two lacks the path. STS compares the whole ARN."},
	{Key: string(otherAccount), Meaning: "`aws` is signed in to another account than the role's, so it cannot see the role and its provider."},
	{Key: string(clusterDiffers), Meaning: "EKS has another issuer for the cluster than the API server that `kubectl` talks to."},
	{Key: string(otherRole), Meaning: "The policy in the file of `--trust-policy` is of another role than the Pod's."},
	{Key: string(policyDiffers), Meaning: "The policy in the file of `--trust-policy` is not what IAM has: it is not deployed yet, or was changed in IAM."},
	{Key: string(notVisible), Meaning: "Something could not be read, most often because the user lacks a right."},
}
