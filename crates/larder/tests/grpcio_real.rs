//! Python's grpcio against the real program: what the other clients do not reach.
//!
//! The cases are functions of the scripts under `tests/clients/grpcio`, each run in a process of its own against a server of its
//! own. `cargo xtask test` installs grpcio.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use larder_testkit::grpcio::PinnedGrpcio;
use larder_testkit::{Access, Server, larder_binary, left_out};

const SCRIPT: &str = "grpcio/run.py";

/// Runs one case, unless grpcio could not be installed, which `cargo xtask test` reports and which is never so in CI.
fn check(case: &str) {
    if left_out("grpcio") {
        return;
    }
    let grpcio = PinnedGrpcio::installed().unwrap();
    let mut server = Server::start(larder_binary(env!("CARGO_BIN_EXE_larder"))).unwrap();
    let token = |access, scope| server.token(access, scope).unwrap();
    let target = server.address().to_string();
    let finished = grpcio.run(
        SCRIPT,
        &[case],
        &[
            ("LARDER_TARGET", &target),
            ("LARDER_TRUSTED_TOKEN", &token(Access::Trusted, None)),
            ("LARDER_READER_TOKEN", &token(Access::Reader, None)),
            (
                "LARDER_ISOLATED_1_TOKEN",
                &token(Access::Isolated, Some("one")),
            ),
            (
                "LARDER_ISOLATED_2_TOKEN",
                &token(Access::Isolated, Some("two")),
            ),
        ],
    );
    let finished = finished.unwrap().success();
    finished.unwrap_or_else(|error| panic!("{error}\nlarder printed: {}", server.output()));
    assert!(server.stop().unwrap().success(), "{}", server.output());
}

macro_rules! cases {
    ($($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                check(stringify!($case));
            }
        )*

        const CASES: &[&str] = &[$(stringify!($case)),*];
    };
}

cases! {
    // case_action_cache.py
    a_result_comes_back_as_it_was_stored
    fields_that_the_server_does_not_know_come_back_too
    an_empty_result_is_one
    results_are_kept_apart_by_instance
    a_result_that_lacks_a_blob_is_not_found_until_it_is_there
    a_tree_that_is_none_is_a_miss
    a_result_of_thousands_of_outputs_is_complete_or_not_found
    outputs_are_inlined_when_asked_for
    what_is_stored_inline_stays_readable
    results_that_make_no_sense_are_refused

    // case_batches.py
    batches_come_back_in_either_encoding_whatever_was_sent
    each_item_of_a_batch_is_answered_for_itself
    a_zstd_body_that_holds_more_than_it_says_is_refused
    zstd_may_come_in_several_frames
    a_batch_as_large_as_advertised_is_taken_and_a_larger_one_is_not
    many_small_blobs_fit_into_one_batch
    ten_thousand_digests_are_looked_up_at_once
    a_right_hash_with_a_wrong_size_is_missing
    digests_that_are_none_are_refused
    the_empty_blob_is_always_there
    blake3_is_a_key_space_of_its_own
    a_tree_is_walked_to_its_leaves
    a_large_tree_comes_in_messages_that_every_client_takes

    // case_callers.py
    capabilities_say_what_the_server_can_do
    capabilities_say_what_the_caller_may_do
    a_bazel_that_fails_on_a_plain_answer_is_told_that_it_may_update
    any_instance_name_is_served
    a_bad_token_is_told_so_by_every_method
    a_reader_may_write_nothing_and_is_told_why
    nobody_finds_anything_and_may_write_nothing
    what_an_isolated_caller_writes_is_seen_in_its_scope_alone
    a_result_of_trunk_that_lost_a_blob_leaves_the_scopes_own
    a_label_in_the_instance_name_narrows_an_isolated_token
    metadata_of_any_kind_is_taken
    a_credential_may_come_as_basic_too

    // case_calls.py
    health_is_told_to_everybody
    what_is_not_there_is_unimplemented
    a_request_that_is_no_message_is_refused
    messages_compressed_by_grpc_itself_are_unimplemented
    a_message_above_the_limit_is_refused_with_the_limit
    texts_of_errors_arrive_as_they_were_written
    a_call_ends_at_its_deadline_and_leaves_nothing
    hundreds_of_calls_share_one_connection
    slow_readers_do_not_stop_the_others_of_their_connection
    a_connection_is_good_for_thousands_of_calls

    // case_streams.py
    a_blob_may_come_in_pieces_of_any_size
    the_end_may_be_marked_by_an_empty_message
    the_name_may_be_repeated_in_every_message
    compressed_uploads_commit_what_was_sent
    a_read_starts_and_ends_anywhere
    uploads_that_share_a_uuid_do_not_meet
    many_writers_of_one_blob_all_succeed
    a_blob_that_is_there_is_answered_before_it_is_sent
    an_upload_that_breaks_a_rule_is_refused_and_leaves_nothing
    names_of_resources_are_read_as_the_specification_says
    the_state_of_an_upload_can_be_asked
    an_upload_that_is_given_up_leaves_nothing
    a_read_that_is_given_up_harms_no_other
    what_is_not_there_is_not_found
}

#[test]
fn every_case_of_the_scripts_is_run() {
    if left_out("grpcio") {
        return;
    }
    let listed = PinnedGrpcio::installed()
        .unwrap()
        .run(SCRIPT, &["--list"], &[])
        .unwrap()
        .success()
        .unwrap();
    let mut cases = CASES.to_vec();
    cases.sort_unstable();
    assert_eq!(cases, listed.lines().collect::<Vec<_>>());
}
