package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// checkApp finds out which identity the container of --container has. Its environment, as the Pod's spec has it, goes to the
// doctor in the sidecar, which has the same network and asks as the container would.
func (o *outside) checkApp(ctx context.Context, k *kubectl) []doctor.Finding {
	c := o.pod.Spec.container(o.question.container)
	if c == nil || c.Name == o.Sidecar {
		return nil // the one is reported, and the other is the exchange that is examined anyway
	}
	if len(c.EnvFrom) > 0 {
		o.warn(checkAppEnvironment, notVisible, fmt.Sprintf("container %s has more variables from %s, which is not read", c.Name, envFrom(c)))
	}
	if !o.runs() {
		o.warn(checkApp, doctor.NotChecked, "which identity "+c.Name+" has was not checked: no sidecar runs in the Pod")
		return nil
	}
	k.say("asking the sidecar as container %s", c.Name)
	app, err := json.Marshal(o.appOf(c))
	if err != nil {
		o.warn(checkApp, notVisible, err.Error())
		return nil
	}
	report, err := k.runInSidecar(ctx, o.facts, bytes.NewReader(app), "--app", "--app-env", "-")
	if err != nil {
		o.warn(checkApp, notVisible, fmt.Sprintf("which identity %s has was not checked: %v", c.Name, err))
		return nil
	}
	for i := range report.Findings {
		f := &report.Findings[i]
		if f.Check == checkApp {
			f.Finding = shown(fmt.Sprintf("container %s: %s", c.Name, f.Finding))
		} else if slices.ContainsFunc(o.findings, func(g doctor.Finding) bool { return g.Check == f.Check }) {
			f.Check = "app-" + f.Check
		}
	}
	return report.Findings
}

// appOf is the environment of a container, as far as AWS clients read it, and the files that are known to be in it.
func (o *outside) appOf(c *container) doctor.App {
	app := doctor.App{Env: make(map[string]string)}
	all := make(map[string]string) // for references to them
	for _, v := range c.Env {
		value, known := o.valueOf(v, all)
		if known {
			all[v.Name] = value
		}
		if !ofClients(v.Name) {
			continue
		}
		delete(app.Env, v.Name)
		app.Hidden = slices.DeleteFunc(app.Hidden, func(name string) bool { return name == v.Name })
		// What they are is enough for the doctor.
		if secret := v.Name == "AWS_SECRET_ACCESS_KEY" || v.Name == "AWS_SECRET_KEY" || v.Name == "AWS_SESSION_TOKEN"; known && (!secret || value == "") {
			app.Env[v.Name] = value
		} else {
			app.Hidden = append(app.Hidden, v.Name)
		}
	}
	app.Files = o.filesIn(c)
	return app
}

// ofClients reports whether AWS clients read a variable. All others stay here.
func ofClients(name string) bool {
	upper := strings.ToUpper(name)
	return strings.HasPrefix(upper, "AWS_") || strings.HasPrefix(upper, "AMAZON_") || strings.HasSuffix(upper, "_PROXY") ||
		slices.Contains([]string{"HOME", "USERPROFILE", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JAVA_OPTS", "CATALINA_OPTS"}, upper)
}

// valueOf is the value that a variable has in the container, and whether that is known: ConfigMaps and Secrets are not read.
func (o *outside) valueOf(v environment, before map[string]string) (value string, known bool) {
	switch {
	case v.ValueFrom == nil:
		return expand(v.Value, before), true
	case v.ValueFrom.FieldRef == nil:
		return "", false
	}
	fields := map[string]string{
		"metadata.name": o.pod.Metadata.Name, "metadata.namespace": o.pod.Metadata.Namespace, "metadata.uid": o.pod.Metadata.UID,
		"spec.nodeName": o.pod.Spec.NodeName, "spec.serviceAccountName": o.pod.Spec.ServiceAccountName,
		"status.podIP": o.pod.Status.PodIP, "status.hostIP": o.pod.Status.HostIP,
	}
	value, known = fields[v.ValueFrom.FieldRef.FieldPath]
	return value, known
}

// expand replaces references to variables before this one, $(NAME), and $$ by $.
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
func expand(value string, before map[string]string) string {
	return regexp.MustCompile(`\$\$|\$\([^)]*\)`).ReplaceAllStringFunc(value, func(reference string) string {
		if reference == "$$" {
			return "$"
		}
		if known, ok := before[reference[2:len(reference)-1]]; ok {
			return known
		}
		return reference
	})
}

// filesIn are the files that volumes put into a container, as far as the Pod's spec names them.
func (o *outside) filesIn(c *container) (files []string) {
	for _, mount := range c.VolumeMounts {
		if mount.SubPath != "" {
			files = append(files, mount.MountPath) // a file, most often; a directory is not read as one
			continue
		}
		for _, v := range o.pod.Spec.Volumes {
			if v.Name == mount.Name {
				for _, name := range v.files() {
					files = append(files, path.Join(mount.MountPath, name))
				}
			}
		}
	}
	return files
}
