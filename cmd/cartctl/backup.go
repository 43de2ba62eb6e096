package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/backup"
	"github.com/samecart/samecart/cmd/cartctl/backup/bucket"
	"github.com/samecart/samecart/crdt"
	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	"github.com/samecart/samecart/rpc/scan"
)

const addressHelp = "A directory, file:///DIR, or s3://BUCKET/PREFIX; an S3 store of one's own is s3://BUCKET/PREFIX?endpoint=URL&use_path_style=true. Credentials and region come from the environment (AWS_…)."

// backupCmd makes and looks at backups.
type backupCmd struct {
	Create backupCreateCmd `cmd:"" default:"withargs" help:"Write a region's carts to a directory or an object store, while it serves; what the last backup has is not written again."`
	List   backupListCmd   `cmd:"" help:"List the backups."`
	Verify backupVerifyCmd `cmd:"" help:"Read all of a backup and check every cart."`
}

type backupCreateCmd struct {
	Region    string `help:"The region." required:""`
	To        string `help:"Where to; a place is for one region. ${address}" required:"" placeholder:"URL"`
	Full      bool   `help:"Write every cart, also those that the last backup has."`
	FullEvery int    `help:"Write every cart also when this many incremental backups stand on the last full one; 0: always." default:"30"`
}

type backupListCmd struct {
	From string `help:"Where they are. ${address}" required:"" placeholder:"URL"`
}

type backupVerifyCmd struct {
	From string `help:"Where it is. ${address}" required:"" placeholder:"URL"`
	At   string `help:"The backup; the newest when not given." placeholder:"ID"`
}

// restoreCmd joins a backup with a region's carts.
type restoreCmd struct {
	Region string `help:"The region; its incarnation must be above what the backup knows of it." required:""`
	From   string `help:"Where the backup is. ${address}" required:"" placeholder:"URL"`
	At     string `help:"The backup; the newest when not given." placeholder:"ID"`
	All    bool   `help:"Join also carts that are left out otherwise: carts of their slots were collected since the backup, and what those had seen removed comes back."`
}

// Validate is called by kong.
func (c *backupCreateCmd) Validate() error {
	if c.FullEvery < 0 {
		return fmt.Errorf("--full-every %d is negative", c.FullEvery)
	}
	return nil
}

// Run makes a backup.
func (c *backupCreateCmd) Run(a *app) (err error) {
	started := time.Now()
	r, err := a.wholeRegion(c.Region)
	if err != nil {
		return err
	}
	b, err := bucket.Open(a.ctx, c.To, true)
	if err != nil {
		return placeError(err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	bar := newProgress(a.stderr, int(r.status.GetCarts()), "carts")
	made, err := backup.Make(a.ctx, r, b, backup.Options{
		Full: c.Full, ChainMax: c.FullEvery, Carts: bar.addMany,
		Note: func(format string, args ...any) {
			bar.clear()
			a.notef(format, args...)
		},
	})
	bar.finish()
	if err != nil {
		return err
	}
	took := time.Since(started)
	object := map[string]any{
		"id": made.ID, "region": made.Region, "carts": made.Carts, "bytes": made.Bytes, "incremental": made.Incremental,
		"carts_written": made.Written, "took_ms": took.Milliseconds(),
	}
	return a.print(object, func(w *tabwriter.Writer) {
		row(w, "backup", made.ID, kindOf(made.Summary))
		row(w, "carts", made.Carts, fmt.Sprintf("%d written, %s in %v", made.Written, bytesOf(made.Bytes), took.Round(time.Millisecond)))
	})
}

// Run lists backups.
func (c *backupListCmd) Run(a *app) (err error) {
	b, err := bucket.Open(a.ctx, c.From, false)
	if err != nil {
		return placeError(err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	all, err := backup.List(a.ctx, b)
	if err != nil {
		return err
	}
	list := []map[string]any{}
	for _, s := range all {
		if s.Problem != nil {
			list = append(list, map[string]any{"id": s.ID, "error": s.Problem.Error()})
			continue
		}
		list = append(list, map[string]any{
			"id": s.ID, "region": s.Region, "incarnation": s.Incarnation, "at": s.Started.Format(time.RFC3339), "carts": s.Carts,
			"bytes": s.Size, "incremental": s.Incremental, "previous": s.Previous,
		})
	}
	return a.print(map[string]any{"backups": list}, func(w *tabwriter.Writer) {
		row(w, "ID", "REGION", "INCARNATION", "CARTS", "SIZE WITH WHAT IT NEEDS", "KIND")
		for _, s := range all {
			if s.Problem != nil {
				row(w, s.ID, "", "", "", "", s.Problem)
				continue
			}
			row(w, s.ID, s.Region, s.Incarnation, s.Carts, bytesOf(s.Size), kindOf(s))
		}
	})
}

// Run checks a backup.
func (c *backupVerifyCmd) Run(a *app) (err error) {
	started := time.Now()
	b, err := bucket.Open(a.ctx, c.From, false)
	if err != nil {
		return placeError(err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	bar := newProgress(a.stderr, -1, "carts")
	s, err := backup.Verify(a.ctx, b, c.At, bar.addMany)
	bar.finish()
	if err != nil {
		return placeError(err)
	}
	took := time.Since(started)
	return a.print(map[string]any{"id": s.ID, "region": s.Region, "carts": s.Carts, "bytes": s.Size, "took_ms": took.Milliseconds()}, func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("backup %s of %s: all %d carts are as they were written (%v)", s.ID, s.Region, s.Carts, took.Round(time.Millisecond)))
	})
}

// Run restores a backup.
func (c *restoreCmd) Run(a *app) (err error) {
	started := time.Now()
	b, err := bucket.Open(a.ctx, c.From, false)
	if err != nil {
		return placeError(err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	r, err := a.wholeRegion(c.Region)
	if err != nil {
		return err
	}
	plan, err := backup.Prepare(a.ctx, b, c.At, r, c.All)
	if err != nil {
		return placeError(err)
	}
	bar := newProgress(a.stderr, 2*plan.Carts, "carts checked, then joined")
	err = plan.Run(a.ctx, bar.addMany)
	bar.finish()
	if err != nil {
		return err
	}
	took := time.Since(started)
	return a.print(map[string]any{"id": plan.ID, "region": c.Region, "carts": plan.Carts - plan.LeftOut, "left_out": plan.LeftOut, "took_ms": took.Milliseconds()}, func(w *tabwriter.Writer) {
		row(w, fmt.Sprintf("backup %s of %s: %d carts joined with those of %s (%v)", plan.ID, plan.Region, plan.Carts-plan.LeftOut, c.Region, took.Round(time.Millisecond)))
		if plan.LeftOut > 0 {
			row(w, fmt.Sprintf("%d carts were left out: carts of their slots were collected since, and what those had seen removed would come back. --all joins them too.", plan.LeftOut))
		}
	})
}

// placeError makes an address of no bucket, and a backup that is not there,
// wrong usage.
func placeError(err error) error {
	if errors.Is(err, bucket.ErrAddress) || errors.Is(err, backup.ErrNoBackup) {
		return usageError{err}
	}
	return err
}

func kindOf(s backup.Summary) string {
	if s.Incremental {
		return "after " + s.Previous
	}
	return "full"
}

// bytesOf writes a size for people.
func bytesOf(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// wholeRegion is a region whose carts are read and joined whole; it satisfies
// backup.Source and backup.Target.
type wholeRegion struct {
	app    *app
	status *adminv1.RegionStatus
	client adminv1connect.AdminServiceClient // of a server that has its carts
}

// wholeRegion finds a region by its name. A server has the carts of its own
// region alone, and knows the incarnation of that.
func (a *app) wholeRegion(name string) (*wholeRegion, error) {
	base := a.base
	for {
		client := api.NewAdmin(a.http, base)
		status, err := administer(a.ctx, operator{client, a.admin()}, &adminv1.RegionsRequest{}, adminv1connect.AdminServiceClient.Regions)
		if err != nil {
			return nil, err
		}
		s, err := regionOf(status, name)
		if err != nil {
			return nil, err
		}
		if s.GetIncarnation() > 0 || base != a.base {
			return &wholeRegion{app: a, status: s, client: client}, nil
		}
		if base, err = api.BaseURL(s.GetAddress()); err != nil || base == a.base {
			return nil, fmt.Errorf("%s does not have the carts of region %s, and no other address of it is known: name one with --addr", a.base, name)
		}
	}
}

func regionOf(status *adminv1.RegionsResponse, name string) (*adminv1.RegionStatus, error) {
	var names []string
	for _, s := range status.GetRegions() {
		if s.GetRegion() == name {
			return s, nil
		}
		names = append(names, s.GetRegion())
	}
	slices.Sort(names)
	return nil, usageError{fmt.Errorf("region %q is unknown: there are %s", name, strings.Join(names, ", "))}
}

var (
	_ backup.Source = (*wholeRegion)(nil)
	_ backup.Target = (*wholeRegion)(nil)
)

// Region implements backup.Source and backup.Target.
func (r *wholeRegion) Region(context.Context) (backup.Region, error) {
	return backup.Region{Name: r.status.GetRegion(), ID: crdt.RegionID(r.status.GetRegionId()), Incarnation: r.status.GetIncarnation()}, nil
}

// patience outlasts a shard's election: a backup must not begin again for it.
var patience = api.Policy{Attempt: 30 * time.Second, Total: time.Minute, Longest: time.Second}

// again does what may be tried again from its beginning.
func (r *wholeRegion) again(ctx context.Context, f func(context.Context) error) error {
	return api.Do(ctx, patience, f)
}

func asked[T any](r *wholeRegion, msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	r.app.admin().Apply(req.Header())
	return req
}

// Digests implements backup.Source.
func (r *wholeRegion) Digests(ctx context.Context) (out []backup.Digest, err error) {
	err = r.again(ctx, func(ctx context.Context) error {
		answer, err := r.client.Digests(ctx, asked(r, &adminv1.DigestsRequest{Region: r.status.GetRegion()}))
		if err != nil {
			return err
		}
		out = make([]backup.Digest, len(answer.Msg.GetDigests()))
		for i, d := range answer.Msg.GetDigests() {
			copy(out[i][:], d)
		}
		return nil
	})
	return out, err
}

// List implements backup.Source.
func (r *wholeRegion) List(ctx context.Context, slot uint32) (out []backup.Listed, err error) {
	region := scan.NewRegion(r.status.GetRegion(), r.client, r.app.admin().Apply)
	err = r.again(ctx, func(ctx context.Context) (err error) {
		out = nil
		stream, err := region.Open(ctx, slot, slot+1)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stream.Close()) }()
		for {
			c, ok, err := stream.Next()
			if err != nil || !ok {
				return err
			}
			l := backup.Listed{ID: c.ID}
			copy(l.Digest[:], c.Digest)
			out = append(out, l)
		}
	})
	return out, err
}

// Export implements backup.Source.
func (r *wholeRegion) Export(ctx context.Context, ids []string) (out []backup.Cart, err error) {
	err = r.again(ctx, func(ctx context.Context) (err error) {
		out = nil
		stream, err := r.client.Export(ctx, asked(r, &adminv1.ExportRequest{Region: r.status.GetRegion(), CartIds: ids}))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stream.Close()) }()
		for stream.Receive() {
			for _, c := range stream.Msg().GetCarts() {
				out = append(out, backup.Cart{ID: c.GetCartId(), State: c.GetState()})
			}
		}
		return stream.Err()
	})
	return out, err
}

// ForgottenBefore implements backup.Target.
func (r *wholeRegion) ForgottenBefore(ctx context.Context) (out []time.Time, err error) {
	err = r.again(ctx, func(ctx context.Context) error {
		resp, err := r.client.Forgotten(ctx, asked(r, &adminv1.ForgottenRequest{Region: r.status.GetRegion()}))
		if err != nil {
			return err
		}
		out = nil
		for _, ms := range resp.Msg.GetForgottenBeforeMs() {
			var at time.Time
			if ms > 0 {
				at = time.UnixMilli(ms)
			}
			out = append(out, at)
		}
		return nil
	})
	return out, err
}

// Import implements backup.Target.
func (r *wholeRegion) Import(ctx context.Context, carts []backup.Cart) error {
	msg := &adminv1.ImportRequest{Region: r.status.GetRegion()}
	for _, c := range carts {
		msg.Carts = append(msg.Carts, &adminv1.WholeCart{CartId: c.ID, State: c.State})
	}
	return r.again(ctx, func(ctx context.Context) error {
		_, err := r.client.Import(ctx, asked(r, msg))
		return err
	})
}
