package control

import (
	"context"
	"fmt"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/gateway/config"
)

// NewNomad returns a client. What the configuration leaves out comes from the
// usual NOMAD_* environment.
func NewNomad(c *config.Nomad) (*nomad.Client, error) {
	conf := nomad.DefaultConfig()
	conf.SecretID = "" // tokens are read for each request
	if c.Address != "" {
		conf.Address = c.Address
	}
	if c.Region != "" {
		conf.Region = c.Region
	}
	if c.Namespace != "" {
		conf.Namespace = c.Namespace
	}
	return nomad.NewClient(conf)
}

// Scaler starts task groups in Nomad.
type Scaler struct {
	Client *nomad.Client
	Config *config.Nomad
}

// Count returns how many instances of a task group are desired and how many of them
// have a node.
func (s *Scaler) Count(ctx context.Context, job, group string) (desired, placed int, err error) {
	token, err := s.Config.Token.Read()
	if err != nil {
		return 0, 0, err
	}
	status, _, err := s.Client.Jobs().ScaleStatus(job, (&nomad.QueryOptions{AuthToken: token}).WithContext(ctx))
	if err != nil {
		return 0, 0, err
	}
	g, ok := status.TaskGroups[group]
	if !ok {
		return 0, 0, fmt.Errorf("job %q has no group %q", job, group)
	}
	return g.Desired, g.Placed, nil
}

// Scale sets the desired count of a task group of which none is desired. The job's
// modify index is checked with it, so that a count that somebody else sets at the same
// moment is never undone.
func (s *Scaler) Scale(ctx context.Context, job, group string, count int, reason string) error {
	token, err := s.Config.Token.Read()
	if err != nil {
		return err
	}
	found, _, err := s.Client.Jobs().Info(job, (&nomad.QueryOptions{AuthToken: token}).WithContext(ctx))
	if err != nil {
		return err
	}
	of := found.LookupTaskGroup(group)
	if of == nil {
		return fmt.Errorf("job %q has no group %q", job, group)
	}
	if of.Count != nil && *of.Count > 0 {
		return nil
	}
	wanted := int64(count)
	_, _, err = s.Client.Jobs().ScaleWithRequest(job, &nomad.ScalingRequest{
		Count: &wanted, Target: map[string]string{"Job": job, "Group": group}, Message: reason,
		JobModifyIndex: *found.JobModifyIndex,
	}, (&nomad.WriteOptions{AuthToken: token}).WithContext(ctx))
	return err
}
