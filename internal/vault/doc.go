// Package vault seals what must not lie clear on disk, and keeps the server's small certificate authorities: its own,
// and the narrow one with which it answers for names that clients call Azure by.
//
// It owns the master key file, the format of sealed texts and the directory pki/. A sealed text is bound to a
// purpose and names the key that sealed it. The package never stores sealed texts of others (the store does),
// never logs, and knows nothing of users' credentials.
package vault
