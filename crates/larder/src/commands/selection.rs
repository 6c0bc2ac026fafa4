//! What was typed about entries, as the control API takes it; and what it says of writers, as people read it.

use anyhow::ensure;
use larder_protocols::control::{SelectionRequest, WriterFigures};

use crate::cli::SelectionArgs;

/// The request for what was typed; without any condition it is the default one.
pub(super) fn request(args: &SelectionArgs, now_ms: u64) -> SelectionRequest {
    let text = |text: &Option<String>| text.clone();
    let older_than = args.older_than.map(|age| age.as_millis() as u64);
    let older_than_ms = older_than.map(|age_ms| now_ms.saturating_sub(age_ms));
    SelectionRequest {
        workspace: args.workspace.as_ref().map(ToString::to_string),
        scope: args.scope.as_ref().map(ToString::to_string),
        dialect: args.dialect.map(|dialect| dialect.name().to_owned()),
        key: text(&args.key),
        instance: None,
        writer: args.writer,
        token: args.token,
        issuer: text(&args.said.issuer),
        rule: text(&args.said.rule),
        repository: text(&args.said.repository),
        repository_id: text(&args.said.repository_id),
        git_ref: text(&args.said.git_ref),
        commit: text(&args.said.commit),
        event: text(&args.said.event),
        workflow: text(&args.said.workflow),
        run: text(&args.said.run),
        actor: text(&args.said.actor),
        written_before_ms: older_than_ms.or(args.until.map(|until| until.unix_ms(now_ms))),
        written_after_ms: args.since.map(|since| since.unix_ms(now_ms)),
        ..SelectionRequest::default()
    }
}

/// The same, which must name something, or everything on purpose.
pub(super) fn request_of_some(
    args: &SelectionArgs,
    all: bool,
    now_ms: u64,
) -> anyhow::Result<SelectionRequest> {
    let request = request(args, now_ms);
    ensure!(
        all || request != SelectionRequest::default(),
        "say which entries: by --workspace, --scope, --dialect, --key, --writer, --token, --run, --commit, \
         --repository, --ref, --since, --older-than and others (see --help), or --all"
    );
    Ok(SelectionRequest {
        everything: all,
        ..request
    })
}

/// Who a writer is, on a line.
pub(super) fn who(writer: u64, known: &[WriterFigures]) -> String {
    let Some(known) = known.iter().find(|known| known.id == writer) else {
        return format!("writer {writer}");
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match known.kind.as_str() {
        "token" => match &known.name {
            Some(name) => format!("token {writer} ({name})"),
            None => format!("token {writer}"),
        },
        "certificate" => format!("certificate {} ({writer})", text(&known.said.subject)),
        _ => {
            let run = known.said.run.as_ref().map(|run| format!("run {run}"));
            let rest = [&known.said.repository, &known.said.git_ref]
                .into_iter()
                .flatten();
            let parts: Vec<String> = run.into_iter().chain(rest.cloned()).collect();
            format!("{} ({writer})", parts.join(" of "))
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_protocols::ProvenanceText;

    use super::*;

    #[test]
    fn a_writer_is_named_by_what_people_know_of_it() {
        let token = WriterFigures {
            id: 7,
            kind: "token".to_owned(),
            name: Some("trunk".to_owned()),
            ..WriterFigures::default()
        };
        let run = WriterFigures {
            id: 8,
            kind: "ci".to_owned(),
            said: ProvenanceText {
                run: Some("4711".to_owned()),
                repository: Some("acme/web".to_owned()),
                ..ProvenanceText::default()
            },
            ..WriterFigures::default()
        };
        let known = [token, run];
        assert_eq!(who(7, &known), "token 7 (trunk)");
        assert_eq!(who(8, &known), "run 4711 of acme/web (8)");
        assert_eq!(who(9, &known), "writer 9");
    }
}
