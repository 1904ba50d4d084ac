// Package route decides which deployment a scoring request goes to.
//
// A Table is plain, immutable data with the revision that it was built from: endpoints with their key digests,
// traffic shares, deployments and the instances that may be called now. The package owns Build, Match and Pick,
// which are pure: they read no clock and draw no random number of their own. It never holds a connection, a
// queue or a count; the gateway keeps those beside the table, by deployment UID and instance ID.
package route
