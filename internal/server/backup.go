package server

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"portico/internal/store"
	"portico/internal/store/sqlite"
	"portico/internal/vault"
)

// A backup is a gzipped tar archive: manifest.json first, then the store and the trees below. It holds no master
// key and no administrator's token: everything secret in it is sealed, so it may lie where the key does not.
const (
	backupFormat   = 1
	backupManifest = "manifest.json"
	maxBackupFile  = 1 << 40 // bytes of one member that restore accepts
)

// backupTrees are what a backup holds besides the store. Environments are not among them: they are built again
// from their specs.
var backupTrees = []string{"artifacts", "pki", "config.yaml"}

type manifest struct {
	Format  int       `json:"format"`
	Version string    `json:"version"`
	Created time.Time `json:"created"`
}

// Backup writes everything a server keeps, but for the master key, to one new file. The server may run meanwhile.
func Backup(ctx context.Context, cfg Config, file string, logger *slog.Logger) (err error) {
	if _, err := os.Stat(filepath.Join(cfg.DataDir, storeFile)); err != nil {
		return fmt.Errorf("there is no server's data in %s: %w", cfg.DataDir, err)
	}
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists; a backup is written to a new file", file)
	}
	keys, err := vault.OpenOrCreate(filepath.Join(cfg.DataDir, masterKeyFile))
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(file), ".portico-backup-")
	if err != nil {
		return fmt.Errorf("make a place for the backup: %w", err)
	}
	defer os.RemoveAll(scratch)
	db, err := sqlite.Open(ctx, filepath.Join(cfg.DataDir, storeFile), keys, logger)
	if err != nil {
		return err
	}
	copied := filepath.Join(scratch, storeFile)
	err = db.Backup(ctx, copied)
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("copy the store: %w", err)
	}
	// The store is copied before the trees: whatever it names was there before, and trees are never changed.
	part := filepath.Join(scratch, "archive")
	if err := writeArchive(ctx, part, copied, cfg.DataDir); err != nil {
		return err
	}
	if err := os.Link(part, file); err != nil { // unlike a rename it never replaces a file
		return fmt.Errorf("write %s: %w", file, err)
	}
	logger.Info("backup written", "file", file, "master_key", "not included")
	return nil
}

func writeArchive(ctx context.Context, path, db, dataDir string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	defer f.Close()
	zip := gzip.NewWriter(f)
	out := tar.NewWriter(zip)
	head, err := json.Marshal(manifest{Format: backupFormat, Version: Version, Created: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	if err := out.WriteHeader(&tar.Header{Name: backupManifest, Mode: 0o600, Size: int64(len(head)), Typeflag: tar.TypeReg}); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if _, err := out.Write(head); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if err := addFile(out, db, storeFile); err != nil {
		return err
	}
	for _, tree := range backupTrees {
		if err := addTree(ctx, out, dataDir, tree); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Close(), zip.Close(), f.Sync()); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return nil
}

func addTree(ctx context.Context, out *tar.Writer, dataDir, tree string) error {
	root := filepath.Join(dataDir, tree)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since it was listed: nothing in the store names it
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dataDir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return addDir(out, d, name)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return addFile(out, path, name)
	})
	if err != nil {
		return fmt.Errorf("back %s up: %w", tree, err)
	}
	return nil
}

func addDir(out *tar.Writer, d fs.DirEntry, name string) error {
	info, err := d.Info()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return out.WriteHeader(&tar.Header{Name: filepath.ToSlash(name) + "/", Mode: int64(info.Mode().Perm()), Typeflag: tar.TypeDir})
}

func addFile(out *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	err = out.WriteHeader(&tar.Header{
		Name: filepath.ToSlash(name), Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime(), Typeflag: tar.TypeReg,
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := io.CopyN(out, f, info.Size()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Restore makes the data directory, which must be empty or absent, from a backup and the master key that sealed
// it. What cannot be opened with that key is told at once, not at the first use.
func Restore(ctx context.Context, cfg Config, file, masterKey string, logger *slog.Logger) error {
	entries, err := os.ReadDir(cfg.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the data directory: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: restore only makes a new data directory", cfg.DataDir)
	}
	key, err := os.ReadFile(masterKey)
	if err != nil {
		return fmt.Errorf("read the master key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.DataDir), 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	part, err := os.MkdirTemp(filepath.Dir(cfg.DataDir), ".portico-restore-")
	if err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	defer os.RemoveAll(part)
	if err := readArchive(ctx, file, part); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(part, masterKeyFile), key, 0o600); err != nil {
		return fmt.Errorf("write the master key: %w", err)
	}
	if err := checkRestored(ctx, part, logger); err != nil {
		return err
	}
	if err := os.Remove(cfg.DataDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the empty data directory: %w", err)
	}
	if err := os.Rename(part, cfg.DataDir); err != nil {
		return fmt.Errorf("move the restored data into place: %w", err)
	}
	logger.Info("restored", "data_dir", cfg.DataDir)
	return nil
}

// checkRestored opens the store with the given key and reads every sealed value in it.
func checkRestored(ctx context.Context, dir string, logger *slog.Logger) error {
	keys, err := vault.OpenOrCreate(filepath.Join(dir, masterKeyFile))
	if err != nil {
		return err
	}
	db, err := sqlite.Open(ctx, filepath.Join(dir, storeFile), keys, logger)
	if err != nil {
		return fmt.Errorf("open the restored store: %w", err)
	}
	err = db.View(ctx, func(r store.Reader) error {
		recs, err := r.List("", store.Page{})
		if err != nil {
			return err
		}
		for _, rec := range recs {
			if _, err := r.Secrets(rec.UID); err != nil {
				return err
			}
		}
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("the backup cannot be read with this master key: %w", err)
	}
	return nil
}

func readArchive(ctx context.Context, file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open the backup: %w", err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s is not a backup: %w", file, err)
	}
	in := tar.NewReader(zip)
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) && !first {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		if first {
			err = checkManifest(h, in)
		} else {
			err = extract(h, in, dir)
		}
		if err != nil {
			return err
		}
	}
}

func checkManifest(h *tar.Header, in io.Reader) error {
	var m manifest
	if h.Name != backupManifest {
		return errors.New("the file is not a backup: it has no manifest")
	}
	if err := json.NewDecoder(io.LimitReader(in, 1<<16)).Decode(&m); err != nil {
		return fmt.Errorf("read the backup's manifest: %w", err)
	}
	if m.Format != backupFormat {
		return fmt.Errorf("the backup has format %d and this version reads %d; restore it with the version that made it (%s)", m.Format, backupFormat, m.Version)
	}
	return nil
}

func extract(h *tar.Header, in io.Reader, dir string) error {
	name := filepath.FromSlash(strings.TrimSuffix(h.Name, "/"))
	top, _, _ := strings.Cut(filepath.ToSlash(name), "/")
	if !filepath.IsLocal(name) || top != storeFile && !slices.Contains(backupTrees, top) || h.Size > maxBackupFile {
		return fmt.Errorf("the backup holds %q, which does not belong into one", h.Name)
	}
	path := filepath.Join(dir, name)
	switch h.Typeflag {
	case tar.TypeDir:
		// Trees are read-only; while they are filled their folders must not be.
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("restore %s: %w", h.Name, err)
		}
		return nil
	case tar.TypeReg:
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("restore %s: %w", h.Name, err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode).Perm())
		if err != nil {
			return fmt.Errorf("restore %s: %w", h.Name, err)
		}
		_, err = io.CopyN(f, in, h.Size)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("restore %s: %w", h.Name, err)
		}
		return nil
	}
	return fmt.Errorf("the backup holds %q of an unexpected type", h.Name)
}
