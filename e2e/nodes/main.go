// Command rented-nodes is a target plugin of the Nomad Autoscaler for tests: a scaling group whose
// nodes a test starts and stops. It works like the targets for clouds that are part of the
// autoscaler and uses the same library; only the cloud is an HTTP server in the test.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	nomadconfig "github.com/hashicorp/nomad-autoscaler/sdk/helper/nomad"
	"github.com/hashicorp/nomad-autoscaler/sdk/helper/scaleutils"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/nodes/cloud"
)

func main() {
	plugins.Serve(func(log hclog.Logger) any { return &target{log: log} })
}

type target struct {
	log   hclog.Logger
	cloud string // URL
	utils *scaleutils.ClusterScaleUtils
}

func (*target) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: "rented-nodes", PluginType: sdk.PluginTypeTarget}, nil
}

func (t *target) SetConfig(config map[string]string) (err error) {
	t.cloud = config["cloud"]
	if t.utils, err = scaleutils.NewClusterScaleUtils(nomadconfig.ConfigFromNamespacedMap(config), t.log); err != nil {
		return err
	}
	t.utils.ClusterNodeIDLookupFunc = func(n *nomad.Node) (string, error) { return n.Name, nil }
	return nil
}

// Status is not ready while nodes join or drain, as with the targets for clouds.
func (t *target) Status(config map[string]string) (*sdk.TargetStatus, error) {
	ready, err := t.utils.IsPoolReady(config)
	if err != nil || !ready {
		return &sdk.TargetStatus{}, err
	}
	group, err := t.group()
	return &sdk.TargetStatus{Ready: err == nil && !group.Closed, Count: int64(group.Wanted),
		Meta: map[string]string{}}, err
}

func (t *target) Scale(action sdk.ScalingAction, config map[string]string) error {
	group, err := t.group()
	if err != nil {
		return err
	}
	want := int(action.Count)
	if want >= group.Wanted {
		return t.post("/start", url.Values{"wanted": {strconv.Itoa(want)}})
	}
	ctx := context.Background()
	ids, err := t.utils.RunPreScaleInTasksWithRemoteCheck(ctx, config, group.Nodes, group.Wanted-want)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := t.post("/end", url.Values{"node": {id.RemoteResourceID}}); err != nil {
			return err
		}
	}
	return t.utils.RunPostScaleInTasks(ctx, config, ids)
}

func (t *target) group() (g cloud.Group, err error) {
	response, err := http.Get(t.cloud + "/group")
	if err != nil {
		return g, err
	}
	defer response.Body.Close()
	return g, json.NewDecoder(response.Body).Decode(&g)
}

func (t *target) post(path string, form url.Values) error {
	response, err := http.PostForm(t.cloud+path, form)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the cloud answers %s", response.Status)
	}
	return nil
}
