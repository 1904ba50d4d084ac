package client

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// TestCredential proves that the default credential speaks for the principal of EXPECT_OBJECT_ID, and that the
// management API takes its token.
func TestCredential(t *testing.T) {
	want := os.Getenv("EXPECT_OBJECT_ID")
	if want == "" {
		t.Fatal("EXPECT_OBJECT_ID is not set")
	}
	ctx, f := clients(t)
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{
		Scopes: []string{"https://management.core.windows.net//.default"}})
	if err != nil {
		t.Fatal(err)
	}
	part := strings.Split(token.Token, ".")
	if len(part) != 3 {
		t.Fatal("the token is not a JWT")
	}
	doc, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ OID, Aud string }
	if err := json.Unmarshal(doc, &claims); err != nil || claims.OID != want {
		t.Errorf("%v: %s, not %s", err, doc, want)
	}
	w, err := f.NewWorkspacesClient().Get(ctx, group, workspace, nil)
	if err != nil || *w.ID != workspaceID {
		t.Errorf("workspace: %v %v", w.ID, err)
	}
}
