package control

import (
	"context"
	"fmt"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot/gateway/config"
)

// NewNomad returns a client. What the configuration leaves out comes from the
// usual NOMAD_* environment.
func NewNomad(c *config.Nomad) (*nomad.Client, error) {
	conf := nomad.DefaultConfig()
	conf.SecretID = "" // tokens are read anew for each request
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

// Count returns the desired count of a task group.
func (s *Scaler) Count(ctx context.Context, job, group string) (int, error) {
	token, err := s.Config.Token.Read()
	if err != nil {
		return 0, err
	}
	status, _, err := s.Client.Jobs().ScaleStatus(job, (&nomad.QueryOptions{AuthToken: token}).WithContext(ctx))
	if err != nil {
		return 0, err
	}
	g, ok := status.TaskGroups[group]
	if !ok {
		return 0, fmt.Errorf("job %q has no group %q", job, group)
	}
	return g.Desired, nil
}

// Scale sets the desired count of a task group.
func (s *Scaler) Scale(ctx context.Context, job, group string, count int, reason string) error {
	token, err := s.Config.Token.Read()
	if err != nil {
		return err
	}
	_, _, err = s.Client.Jobs().Scale(job, group, &count, reason, false, nil, (&nomad.WriteOptions{AuthToken: token}).WithContext(ctx))
	return err
}
