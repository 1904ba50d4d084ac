package control

func userIdentity(name string) string {
	return "/subscriptions/sub/resourceGroups/group/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}
