"""The steps in the cluster: namespace, Kubernetes service account, and the Hugging Face token's Secret."""

from __future__ import annotations

from packtrain.gcp import kubectl
from packtrain.gcp.access import GIVEN
from packtrain.gcp.ask import ask
from packtrain.gcp.commands import Command, Runner
from packtrain.gcp.looks import cluster_is_there, service_account
from packtrain.gcp.site import Site
from packtrain.gcp.steps import Seen, Step, Undo, remove_if_ours
from packtrain.kube.names import TOKEN_KEY, TOKEN_SECRET

GOOGLE_ACCOUNT = "iam.gke.io/gcp-service-account"
#: ``$NAME`` in the Secret's manifest; a shell fills it in from the environment, where the line is copied.
TOKEN = "HF_TOKEN"  # noqa: S105
_LATER = Seen("later", "when the cluster is there")
#: Tells the keys of a Secret and whose it is, and leaves its content where it is.
_WITHOUT_CONTENT = (
    '--output=go-template={"keys":[{{$comma := ""}}{{range $key, $value := .data}}{{$comma}}"{{$key}}"'
    '{{$comma = ","}}{{end}}],"by":"{{with .metadata.labels}}'
    '{{index . "app.kubernetes.io/managed-by"}}{{end}}"}'
)


def namespace_step(site: Site) -> Step:
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": kubectl.metadata(site.namespace)}

    def look(runner: Runner, _: bool) -> Seen:
        if not cluster_is_there(runner, site):
            return _LATER
        found = ask(runner, kubectl.get("namespace", site.namespace))
        if found is None:
            return Seen("make", "is not there")
        if (found.get("status") or {}).get("phase") == "Terminating":
            return Seen("differs", "is being deleted", "wait until it is gone, then run this again", True)
        return Seen("there", "is there", ours=kubectl.is_ours(found))

    def undo(runner: Runner, seen: Seen) -> Undo:
        plain = remove_if_ours((kubectl.delete("namespace", site.namespace),))(runner, seen)
        if plain.action != "remove":
            return plain
        for kind in ("serviceaccounts", "pods,jobs,deployments,services"):
            others = _names(runner, kind, site.namespace, kubectl.NOT_OURS) - {"default", "kubernetes"}
            if others:
                return Undo("leave", f"has others' objects: {_some(others)}")
        others = _accounts(runner, site) - {site.service_account}
        if others:
            return Undo("leave", f"other runs use it, by the service account {_some(others)}")
        return plain

    return Step(
        "namespace",
        f"namespace {site.namespace}",
        "whoever may make pods in it has the rights of the service account",
        look,
        (kubectl.apply(made),),
        undo,
        600,
    )


def service_account_step(site: Site, *, via: bool) -> Step:
    note = {"annotations": {GOOGLE_ACCOUNT: site.google_account}} if via else {}
    made = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": kubectl.metadata(site.service_account, site.namespace, **note),
        # The trainer asks Google's metadata server, never the Kubernetes API.
        "automountServiceAccountToken": False,
    }
    at = (site.service_account, f"--namespace={site.namespace}")
    annotate = ("kubectl", "annotate", "serviceaccount", *at)

    def look(runner: Runner, _: bool) -> Seen:
        if not cluster_is_there(runner, site):
            return _LATER
        found = service_account(runner, site)
        if found is None:
            return Seen("make", "is not there")
        ours = kubectl.is_ours(found)
        has = (found["metadata"].get("annotations") or {}).get(GOOGLE_ACCOUNT)
        if has and not via:
            return Seen(
                "differs",
                f"stands for {has} by its annotation, so that a right on the bucket of its own is not used",
                "--via-service-account gives the right to that account; or:"
                f" {' '.join(annotate)} {GOOGLE_ACCOUNT}-",
                True,
                ours,
            )
        if has and has != site.google_account:
            return Seen(
                "differs",
                f"stands for {has} by its annotation, not for {site.google_account}",
                "name another cluster.service_account, or leave out --via-service-account",
                True,
                ours,
            )
        if via and not has:
            left = Command((*annotate, f"{GOOGLE_ACCOUNT}={site.google_account}"))
            return Seen("make", "has no annotation yet", ours=ours, remaining=(left,))
        return Seen("there", f"stands for {has}" if has else "has no annotation, and needs none", ours=ours)

    def undo(runner: Runner, seen: Seen) -> Undo:
        delete = kubectl.delete("serviceaccount", site.service_account, site.namespace)
        plain = remove_if_ours((delete,))(runner, seen)
        account = service_account(runner, site) if seen.state != "later" else None
        notes = sorted(
            each
            for each in (account or {}).get("metadata", {}).get("annotations") or {}
            if each.startswith(GIVEN)
        )
        if plain.action == "leave" and notes:
            take = Command((*annotate, *(f"{each}-" for each in notes)))
            return Undo("remove", "only packtrain's notes on it: it was there before", (take,))
        return plain

    return Step(
        "service-account",
        f"Kubernetes service account {site.service_account}",
        "whose rights the pods have",
        look,
        (kubectl.apply(made),),
        undo,
    )


def secret_step(site: Site, *, has_token: bool, renew: bool) -> Step:
    make = kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": kubectl.metadata(TOKEN_SECRET, site.namespace),
            "type": "Opaque",
            "stringData": {TOKEN_KEY: kubectl.Quoted(f"${TOKEN}")},
        },
        values=(TOKEN,),
    )
    at = (f"--namespace={site.namespace}", "--ignore-not-found")

    def look(runner: Runner, _: bool) -> Seen:
        if not cluster_is_there(runner, site):
            return _LATER
        found = ask(runner, Command(("kubectl", "get", "secret", TOKEN_SECRET, *at, _WITHOUT_CONTENT)))
        if found is None and not has_token:
            return Seen(
                "yours",
                "no Hugging Face token is known here: gated models and private data will not be read",
                "set HF_TOKEN, run `hf auth login`, or pipe it into --token-stdin; then run this again",
            )
        if found is None:
            return Seen("make", "is not there")
        ours = found["by"] == kubectl.MANAGER
        if not ours and (renew or TOKEN_KEY not in found["keys"]):
            lacks = "" if TOKEN_KEY in found["keys"] else f", and has no key {TOKEN_KEY}"
            return Seen("differs", f"was not made by packtrain{lacks}", "delete it and run this again")
        if renew:
            return Seen("make", "is renewed", ours=ours, renews=True)
        return Seen("there", f"has a {TOKEN_KEY}; --token-stdin renews it", ours=ours)

    def undo(runner: Runner, seen: Seen) -> Undo:
        plain = remove_if_ours((kubectl.delete("secret", TOKEN_SECRET, site.namespace),))(runner, seen)
        others = _accounts(runner, site) - {site.service_account} if plain.action == "remove" else set()
        return (
            Undo("leave", f"other runs use it, by the service account {_some(others)}") if others else plain
        )

    return Step("secret", f"Secret {TOKEN_SECRET}", "the Hugging Face token", look, (make,), undo)


def _names(runner: Runner, kind: str, namespace: str, selector: str) -> set[str]:
    found = ask(runner, kubectl.listing(kind, namespace, selector)) or {}
    return {each["metadata"]["name"] for each in found.get("items", ())}


def _accounts(runner: Runner, site: Site) -> set[str]:
    ours = ",".join(f"{key}={value}" for key, value in kubectl.LABELS.items())
    return _names(runner, "serviceaccounts", site.namespace, ours)


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
