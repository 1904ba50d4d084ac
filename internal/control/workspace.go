package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Workspace is a workspace as people see it.
type Workspace struct {
	Meta arm.Meta
	Spec online.WorkspaceSpec
}

// ensureDefault makes the configured workspace at the first start.
func (s *Service) ensureDefault(tx store.Tx, now time.Time) error {
	id := s.Default.ID()
	rec, err := find(tx, id)
	if err != nil || rec != nil {
		return err
	}
	if fault := online.CheckScope(s.Default); fault != nil {
		return fault
	}
	c := Caller{Principal: online.System}
	if _, err := putJSON(tx, c, id, online.WorkspaceSpec{Location: s.Location}, "create", now); err != nil {
		return err
	}
	return s.note(tx, c, id, "write", succeeded, "default workspace", now)
}

// PutWorkspace creates or changes a workspace. Its location is fixed at creation.
func (s *Service) PutWorkspace(ctx context.Context, c Caller, w online.WorkspaceID, spec online.WorkspaceSpec,
	m Match) (Accepted[Workspace], error) {
	return s.changeWorkspace(ctx, c, w, m, false, func(online.WorkspaceSpec) online.WorkspaceSpec { return spec })
}

// PatchWorkspace changes tags and words; nil stays as it is.
type PatchWorkspace struct {
	Tags                      *map[string]string
	FriendlyName, Description *string
	Match                     Match
}

// PatchWorkspace changes parts of a workspace that exists. Tags replace the tags that it has.
func (s *Service) PatchWorkspace(ctx context.Context, c Caller, w online.WorkspaceID,
	in PatchWorkspace) (Accepted[Workspace], error) {
	return s.changeWorkspace(ctx, c, w, in.Match, true, func(spec online.WorkspaceSpec) online.WorkspaceSpec {
		if in.Tags != nil {
			spec.Tags = *in.Tags
		}
		if in.FriendlyName != nil {
			spec.FriendlyName = *in.FriendlyName
		}
		if in.Description != nil {
			spec.Description = *in.Description
		}
		return spec
	})
}

func (s *Service) changeWorkspace(ctx context.Context, c Caller, w online.WorkspaceID, m Match, mustExist bool,
	edit func(online.WorkspaceSpec) online.WorkspaceSpec) (out Accepted[Workspace], err error) {
	if fault := online.CheckScope(w); fault != nil {
		return out, fault
	}
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		rec, err := findForChange(tx, w.ID(), m, mustExist)
		if err != nil {
			return err
		}
		before := online.WorkspaceSpec{Location: s.Location}
		why := "create"
		if rec != nil {
			ws, err := store.Decode[online.WorkspaceSpec, struct{}](rec)
			if err != nil {
				return err
			}
			before, why = ws.Spec, "update"
		}
		next := edit(before)
		if next.Location == "" {
			next.Location = before.Location
		}
		faults := checkWords(next.Description, next.Tags, nil, "tags")
		if rec != nil && !sameLocation(next.Location, before.Location) {
			faults = append(faults, online.Errorf(online.CodeBadArgument, "location",
				"the location of a workspace cannot change after creation (it is %q)", before.Location))
		}
		if err := failIf(faults); err != nil {
			return err
		}
		stored, err := putJSON(tx, c, w.ID(), next, why, now)
		if err != nil {
			return err
		}
		out = Accepted[Workspace]{Resource: Workspace{Meta: meta(stored, online.StateSucceeded), Spec: next},
			Created: rec == nil}
		return s.note(tx, c, w.ID(), "write", succeeded, "", now)
	})
	return out, err
}

// GetWorkspace reads a workspace.
func (s *Service) GetWorkspace(ctx context.Context, c Caller, w online.WorkspaceID) (out Workspace, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		rec, err := must(r, w.ID())
		if err != nil {
			return err
		}
		out, err = readWorkspace(rec)
		return err
	})
	return out, err
}

func readWorkspace(rec *store.Record) (Workspace, error) {
	var spec online.WorkspaceSpec
	if err := json.Unmarshal(rec.Spec, &spec); err != nil {
		return Workspace{}, fmt.Errorf("decode %s: %w", rec.ID.Key(), err)
	}
	return Workspace{Meta: meta(rec, online.StateSucceeded), Spec: spec}, nil
}

// ListWorkspaces lists the workspaces of a subscription, or of one resource group of it.
func (s *Service) ListWorkspaces(ctx context.Context, c Caller, subscription, group string,
	q ListQuery) (out Listing[Workspace], err error) {
	prefix := kindPrefix(online.KindWorkspace) + strings.ToLower(subscription) + "/"
	if group != "" {
		prefix += strings.ToLower(group) + "/"
	}
	err = s.view(ctx, c, func(r store.Reader) error {
		recs, err := r.List(prefix, store.Page{})
		if err != nil {
			return fmt.Errorf("list workspaces: %w", err)
		}
		out, err = listing(recs, q, readWorkspace, func(w *Workspace) described {
			return described{meta: w.Meta,
				tags: w.Spec.Tags}
		})
		return err
	})
	return out, err
}

// DeleteWorkspace removes an empty workspace. The default workspace stays: the next start would make it again.
func (s *Service) DeleteWorkspace(ctx context.Context, c Caller, w online.WorkspaceID, m Match) (found bool, err error) {
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		rec, err := findForChange(tx, w.ID(), m, false)
		if err != nil {
			return err
		}
		if found = rec != nil; !found {
			return nil
		}
		if w.ID().Same(s.Default.ID()) {
			return online.Errorf(online.CodeConflict, arm.FormatWorkspace(w),
				"it is the server's default workspace and cannot be deleted")
		}
		for _, kind := range []online.Kind{online.KindEndpoint, online.KindDeployment, online.KindModel, online.KindCode,
			online.KindEnvironment, online.KindData} {
			inside, err := tx.List(online.ID{Workspace: w, Kind: kind}.Prefix(), store.Page{Limit: 1})
			if err != nil {
				return fmt.Errorf("list %s: %w", kind, err)
			}
			if len(inside) > 0 {
				return online.Errorf(online.CodeConflict, arm.FormatWorkspace(w),
					"the workspace still has %s; delete them first", kind)
			}
		}
		if err := tx.Remove(w.ID(), c.Principal.Name, now); err != nil {
			return fmt.Errorf("remove %s: %w", w.ID().Key(), err)
		}
		return s.note(tx, c, w.ID(), "delete", succeeded, "", now)
	})
	return found, err
}
