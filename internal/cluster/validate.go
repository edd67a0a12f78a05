package cluster

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

var slotName = regexp.MustCompile(`^[a-z0-9_]+$`)

// reservedSlotPrefix starts the names of the slots that stolon makes itself.
const reservedSlotPrefix = "stolon_"

// Validate reports the first thing that is wrong with the spec, defaults
// applied. Rules, their order and their words are those of 0.17, which every
// one of its components applies at every read: never store what fails here.
func (s *Spec) Validate() error {
	set := s.Settings()
	for _, d := range []struct {
		name  string
		value Duration
	}{
		{"sleepInterval", set.SleepInterval},
		{"requestTimeout", set.RequestTimeout},
		{"convergenceTimeout", set.ConvergenceTimeout},
		{"initTimeout", set.InitTimeout},
		{"syncTimeout", set.SyncTimeout},
		{"dbWaitReadyTimeout", set.DBWaitReadyTimeout},
		{"failInterval", set.FailInterval},
		{"deadKeeperRemovalInterval", set.DeadKeeperRemovalInterval},
		{"proxyCheckInterval", set.ProxyCheckInterval},
		{"proxyTimeout", set.ProxyTimeout},
	} {
		if d.value.Duration < 0 {
			return fmt.Errorf("%s must be positive", d.name)
		}
	}
	switch {
	case set.ProxyCheckInterval.Duration >= set.ProxyTimeout.Duration:
		return errors.New("proxyCheckInterval should be less than proxyTimeout")
	case set.MaxStandbys < 1:
		return errors.New("maxStandbys must be at least 1")
	case set.MaxStandbysPerSender < 1:
		return errors.New("maxStandbysPerSender must be at least 1")
	case set.MaxSynchronousStandbys < 1:
		return errors.New("maxSynchronousStandbys must be at least 1")
	case set.MaxSynchronousStandbys < set.MinSynchronousStandbys:
		return errors.New("maxSynchronousStandbys must be greater or equal to minSynchronousStandbys")
	case set.InitMode == nil:
		return errors.New("initMode undefined")
	}
	for _, name := range set.AdditionalMasterReplicationSlots {
		if !slotName.MatchString(name) {
			return fmt.Errorf("wrong replication slot name: %q", name)
		}
		if strings.HasPrefix(name, reservedSlotPrefix) {
			return fmt.Errorf("replication slot name is reserved: %q", name)
		}
	}
	if set.SyncLogicalSlots && set.PGParameters["wal_level"] != "logical" {
		return errors.New(`syncLogicalSlots needs "wal_level": "logical" in pgParameters`)
	}
	for _, line := range set.PGHBA {
		if strings.Contains(line, "\n") {
			return errors.New("pgHBA entries cannot contain newline characters")
		}
	}
	if err := set.validateInitMode(); err != nil {
		return err
	}
	if m := set.DefaultSUReplAccessMode; m != AccessAll && m != AccessStrict {
		return fmt.Errorf("unknown defaultSUReplAccessMode: %q", m)
	}
	switch set.Role {
	case RoleMaster:
	case RoleStandby:
		if set.StandbyConfig == nil {
			return errors.New(`standbyConfig undefined. Required when cluster role is "standby"`)
		}
	default:
		return fmt.Errorf("unknown role: %q", set.Role)
	}
	return nil
}

func (set Settings) validateInitMode() error {
	switch *set.InitMode {
	case InitNew:
		if set.Role == RoleStandby {
			return errors.New(`invalid cluster role standby when initMode is "new"`)
		}
	case InitExisting:
		if set.ExistingConfig == nil {
			return errors.New(`existingConfig undefined. Required when initMode is "existing"`)
		}
		if set.ExistingConfig.KeeperUID == "" {
			return errors.New("existingConfig.keeperUID undefined")
		}
	case InitPITR:
		switch {
		case set.PITRConfig == nil:
			return errors.New(`pitrConfig undefined. Required when initMode is "pitr"`)
		case set.PITRConfig.DataRestoreCommand == "":
			return errors.New("pitrConfig.DataRestoreCommand undefined")
		case set.PITRConfig.RecoveryTargetSettings != nil && set.Role == RoleStandby:
			return errors.New("cannot define pitrConfig.RecoveryTargetSettings when required cluster role is standby")
		}
	default:
		return fmt.Errorf("unknown initMode: %q", *set.InitMode)
	}
	return nil
}

// CheckUpdate reports why a running cluster's spec may not change from old to
// next. Both must be valid.
func CheckUpdate(old, next *Spec) error {
	o, n := old.Settings(), next.Settings()
	if o.InitMode != nil && n.InitMode != nil && *o.InitMode != *n.InitMode {
		return errors.New("cannot change cluster init mode")
	}
	if o.Role == RoleMaster && n.Role == RoleStandby {
		return errors.New("cannot update a cluster from master role to standby role")
	}
	return nil
}

// Check reports why the cluster data can't be worked with. Every reader calls
// it at every read.
func (c *ClusterData) Check() error {
	switch {
	case c == nil:
		return errors.New("no cluster data")
	case c.FormatVersion != FormatVersion:
		return fmt.Errorf("unsupported cluster data format version %d", c.FormatVersion)
	case c.Cluster == nil:
		return errors.New("no cluster in the cluster data")
	case c.Cluster.Spec == nil:
		return errors.New("no cluster spec available")
	}
	if err := c.Cluster.Spec.Validate(); err != nil {
		return fmt.Errorf("clusterdata validation failed: %w", err)
	}
	// No writer leaves these out; everybody relies on them.
	for _, uid := range SortedKeys(c.Keepers) {
		if c.Keepers[uid] == nil {
			return fmt.Errorf("clusterdata validation failed: keeper %q is null", uid)
		}
	}
	for _, uid := range SortedKeys(c.DBs) {
		if c.DBs[uid] == nil || c.DBs[uid].Spec == nil {
			return fmt.Errorf("clusterdata validation failed: db %q has no spec", uid)
		}
	}
	return nil
}

// UpdateSpec replaces the spec of usable cluster data (Check), if the next one
// is valid and allowed.
func (c *ClusterData) UpdateSpec(next *Spec, now time.Time) error {
	if err := next.Validate(); err != nil {
		return fmt.Errorf("invalid cluster spec: %w", err)
	}
	if err := CheckUpdate(c.Cluster.Spec, next); err != nil {
		return err
	}
	c.Cluster.Spec = next
	c.Cluster.ChangeTime = now
	return nil
}
