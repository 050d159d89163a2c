package control

import (
	"context"
	"fmt"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/gateway/config"
)

// NewNomad returns a client. The NOMAD_* variables replace what the configuration leaves out.
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

// Count returns the desired count of a task group and the number of placed allocations.
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

// Scale sets the desired count of a task group if it is 0. It checks the job's modify index, so
// that it never overwrites a count that is set at the same time.
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
