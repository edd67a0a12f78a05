package sim

import (
	"fmt"
	"net"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/postgresql"
	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/postgresqltest"
)

// outsideHost is where the primary runs that a standby cluster follows.
const outsideHost = "10.0.9.9"

// followOutside makes the run one of a standby cluster, which is promoted while
// there are faults.
func (p *plan) followOutside() {
	p.outside = true
	mode, role := cluster.InitPITR, cluster.RoleStandby
	p.settings.InitMode, p.settings.Role = &mode, &role
	p.settings.PITRConfig = &cluster.PITRConfig{DataRestoreCommand: net.JoinHostPort(outsideHost, pgPort)}
	p.settings.StandbyConfig = &cluster.StandbyConfig{StandbySettings: &cluster.StandbySettings{
		PrimaryConninfo: fmt.Sprintf("host=%s port=%s", outsideHost, pgPort),
	}}
}

// startOutside starts the primary outside and somebody who writes to it.
func (s *sim) startOutside() error {
	s.outside = s.world.Instance(outsideHost, pgPort)
	if err := s.outside.InitDB(s.over, postgresql.InitDB{}); err != nil {
		return err
	}
	if err := s.startOutsideAgain(); err != nil {
		return err
	}
	s.wg.Go(func() {
		d := s.dice.of("outside client")
		for row := 9_000_000; s.over.Err() == nil; row++ {
			s.sleep(d.between(50*time.Millisecond, 300*time.Millisecond))
			writeTo(s.outside, row)
		}
	})
	return nil
}

func (s *sim) startOutsideAgain() error {
	return s.outside.Start(s.over, conf.Config{HBA: []string{"host all all 0.0.0.0/0 md5"}}, false)
}

// writeTo inserts a row, if the instance lets it.
func writeTo(i *postgresqltest.Instance, row int) {
	client, server := net.Pipe()
	defer client.Close()
	i.Serve(server, fmt.Sprintf("outside %d", row))
	if err := postgresqltest.Login(client); err != nil {
		return // it is down
	}
	if _, err := fmt.Fprintf(client, "I %d\n", row); err != nil {
		return
	}
	_, _ = client.Read(make([]byte, 64))
}

// promoteCluster is what stolonctl promote does, some time during the faults;
// the primary outside may fail before.
func (s *sim) promoteCluster() {
	d := s.dice.of("promote")
	faults := s.plan.faults
	s.sleep(d.between(faults/10, faults/2))
	if d.chance(50) {
		s.trace("fault: kill the primary outside")
		s.outside.Kill(true)
		s.sleep(d.between(100*time.Millisecond, 10*time.Second))
		if d.chance(50) {
			s.trace("undo: start the primary outside")
			if err := s.startOutsideAgain(); err != nil && s.over.Err() == nil {
				s.truth.fail("the primary outside does not start: %v", err)
			}
		}
	}
	s.sleep(d.between(faults/10, faults/3))
	role := cluster.RoleMaster
	s.operator("promote", func(cd *cluster.ClusterData) { cd.Cluster.Spec.Role = &role })
	close(s.promoted)
}

// following tells what a standby cluster still lacks.
func (s *sim) following() string {
	for n, i := range s.instances {
		switch st := i.State(); {
		case st.Primary:
			return fmt.Sprintf("keeper%d runs a primary", n+1)
		case !st.Ready || !st.Streaming:
			return fmt.Sprintf("keeper%d does not stream", n+1)
		}
	}
	return ""
}
