// Exit codes, help, names, and what each command asks of the server.
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"
#include "tests/client/qamctl_fixture.h"

namespace qamserve::qamctl {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST_F(QamctlTest, ExitCodes) {
  EXPECT_EQ(Run({"models"}).code, kExitOk);
  EXPECT_EQ(Run({"quantize", "abcd"}).code, kExitFailed) << "ambiguous";
  EXPECT_EQ(Run({"no-such-command"}).code, kExitUsage);
  EXPECT_EQ(RunBare({}).code, kExitUsage);
  EXPECT_EQ(Run({"quantize"}).code, kExitUsage);
  EXPECT_EQ(Run({"quantize", "large", "--bpw", "17"}).code, kExitUsage);
  EXPECT_EQ(Run({"generate", "absent", "x"}).code, kExitNotFound);
  EXPECT_EQ(Run({"report", "feedbeef"}).code, kExitNotFound);
  EXPECT_EQ(Run({"upload", folder_ / "absent.gguf"}).code, kExitNotFound);
  EXPECT_EQ(RunBare({"models", "--address", "127.0.0.1:1"}).code, kExitUnavailable);
}

TEST_F(QamctlTest, NumbersOutOfRangeAreToldInShort) {
  for (const auto& [flag, value] :
       {std::pair("--max-tokens", "0"), std::pair("--top-k", "-1"), std::pair("--timeout", "-1"),
        std::pair("--temperature", "nan"), std::pair("--temperature", "inf"), std::pair("--repetition-penalty", "x")}) {
    const Result result = Run({"generate", "tiny", "x", flag, value});
    EXPECT_EQ(result.code, kExitUsage) << flag;
    EXPECT_THAT(result.err, AllOf(HasSubstr(flag), HasSubstr(value)));
    EXPECT_LT(result.err.size(), 150u) << result.err;
  }
}

// protobuf sends nothing else, and says so in words that help nobody.
TEST_F(QamctlTest, WhatIsNotUtf8IsRefusedHere) {
  const Result argument = Run({"generate", "tiny", "bad \xff"});
  EXPECT_EQ(argument.code, kExitUsage);
  EXPECT_THAT(argument.err, AllOf(HasSubstr("prompt"), HasSubstr("byte 4 (0xff)"), HasSubstr("UTF-8")));
  EXPECT_EQ(Run({"generate", "tiny", "x", "--stop", "\xff"}).code, kExitUsage);
  EXPECT_EQ(Run({"chat", "tiny", "--message", "x", "--system", "\xff"}).code, kExitUsage);
  for (const char* text : {"g\xfc\xdf", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "cut \xe2\x82"}) {
    stdin_ = text;
    for (const std::vector<std::string>& command :
         {std::vector<std::string>{"generate", "tiny", "-"}, {"chat", "tiny"}, {"score", "tiny", "-"}}) {
      const Result piped = Run(command);
      EXPECT_EQ(piped.code, kExitFailed) << command[0];
      EXPECT_THAT(piped.err, HasSubstr("TEXT_NOT_UTF8"));
    }
  }
  EXPECT_EQ(server_.state().chats.size(), 0u);
  EXPECT_EQ(server_.state().generate.prompt(), "");
  stdin_ = "wörld \xe2\x82\xac \xf0\x9f\x98\x80";
  EXPECT_EQ(Run({"generate", "tiny", "-"}).code, kExitOk);
  EXPECT_EQ(server_.state().generate.prompt(), stdin_);
}

TEST_F(QamctlTest, ARefusedRequestHasNoFigures) {
  EXPECT_THAT(Run({"generate", "absent", "x", "--stats"}).err, Not(HasSubstr("tokens/s")));
  EXPECT_THAT(Run({"generate", "tiny", "x", "--stats"}).err, HasSubstr("tokens/s"));
}

TEST_F(QamctlTest, ErrorsSayWhatFailedWhyAndWhatToDo) {
  const Result unreachable = RunBare({"models", "--address", "127.0.0.1:1"});
  EXPECT_THAT(unreachable.err, AllOf(HasSubstr("cannot reach qamserve at 127.0.0.1:1"), HasSubstr("is it running?"),
                                     HasSubstr("start it with `qamserve`")));
  EXPECT_EQ(unreachable.out, "");
  const Result absent = Run({"generate", "absent", "x"});
  EXPECT_THAT(absent.err, AllOf(HasSubstr("MODEL_NOT_FOUND"), HasSubstr("qamctl models")));
  EXPECT_THAT(RunBare({"quantzie", "x"}).err,
              AllOf(HasSubstr("no command \"quantzie\""), HasSubstr("did you mean `qamctl quantize`?")));
  EXPECT_THAT(RunBare({"cha"}).err, HasSubstr("did you mean `qamctl chat`?"));
  EXPECT_THAT(RunBare({"xyz"}).err, Not(HasSubstr("did you mean")));
  const Result wrong_time = Run({"jobs", "--timeout", "-3"});
  EXPECT_EQ(wrong_time.code, kExitUsage);
  EXPECT_THAT(wrong_time.err, HasSubstr("--timeout"));
}

TEST_F(QamctlTest, HelpOfEveryCommandNamesEveryFlag) {
  const std::string sampling =
      "--max-tokens --temperature --top-k --top-p --min-p --repetition-penalty --presence-penalty "
      "--frequency-penalty --logit-bias --seed --stop --ignore-eos --logprobs --stats "
      "--json-object --json-schema --regex --grammar --choice";
  const std::map<std::string, std::string> flags = {
      {"upload", "--name --text"},
      {"import", "--name --text"},
      {"checkpoints", "list get delete"},
      {"quantize",
       "--bpw --no-channel-scale --rotation --seed --calibration --calibration-windows --evaluation "
       "--evaluation-windows --window-tokens --max-kl --name --load-as --priority --pool --project --watch "
       "--validate-only --rate --target-bpw --target-bytes --target-kl --target-ppl --one-rate --ladder --curve-only "
       "--embedding-bits "
       "--calibration-template --evaluation-template"},
      {"study",
       "table --methods --rates --calibration --calibration-windows --evaluation --evaluation-windows "
       "--window-tokens --name --priority --pool --project --watch --validate-only --no-probes --calibration-template "
       "--evaluation-template"},
      {"study table", "--format --output"},
      {"watch", "job"},
      {"jobs", "list get watch cancel retry delete"},
      {"jobs list", "--state"},
      {"cancel", "job"},
      {"report", "--worst"},
      {"eval", "--text --windows --window-tokens --template --pool --project --no-watch --validate-only"},
      {"artifacts", "list get download export delete"},
      {"artifacts list", "--checkpoint"},
      {"artifacts download", "--output"},
      {"artifacts export", "--format --dtype --out hf gguf bf16 f16 f32"},
      {"load", "--name --context-tokens --replicas"},
      {"unload", "--drain-seconds"},
      {"models", "--json --address --timeout"},
      {"alias", "set list show delete"},
      {"alias set", "--etag --validate-only"},
      {"alias delete", "--etag"},
      {"generate", sampling},
      {"chat", sampling + " --message --system --tools --template-args"},
      {"score", "--tokens --top"},
      {"embed", "--normalize"},
      {"compare", "--prompt --message --system --tokens"},
      {"tokenize", "--add-special --parse-special"},
      {"detokenize", "--skip-special"},
      {"keys", "create list get rotate revoke delete"},
      {"keys create",
       "--scope --ttl --requests-per-minute --tokens-per-minute --concurrent-requests --upload-bytes-per-day"},
      {"keys rotate", "--grace --ttl"},
      {"audit", "--key --limit"},
      {"whoami", "--api-key-file"},
      {"system", "--tls-ca"},
      {"admin", "workers leases queue gc schema release drain backup"},
      {"admin gc", "--dry-run"},
      {"admin release", "job task"},
      {"admin drain", "instance --undo"},
      {"admin backup", "file"},
      {"probe", "url http://127.0.0.1:9090/livez"},
      {"version", "--json"}};
  const Result root = RunBare({"--help"});
  EXPECT_EQ(root.code, kExitOk);
  EXPECT_THAT(root.out, HasSubstr("Exit codes"));
  for (const Command& command : Commands()) {
    EXPECT_TRUE(flags.contains(command.name)) << command.name << " is not in this test";
    EXPECT_THAT(root.out, HasSubstr(command.summary));
  }
  for (const auto& [command, expected] : flags) {
    std::istringstream words(command);
    std::vector<std::string> arguments{std::istream_iterator<std::string>(words), {}};
    arguments.push_back("--help");
    const Result help = RunBare(arguments);
    EXPECT_EQ(help.code, kExitOk) << command;
    std::istringstream list(expected);
    for (std::string flag; list >> flag;) EXPECT_THAT(help.out, HasSubstr(flag)) << command;
  }
}

TEST_F(QamctlTest, TargetsLaddersAndRulesReachTheServer) {
  ASSERT_EQ(Run({"quantize", "large", "--target-bytes", "2MB", "--one-rate"}).code, kExitOk);
  EXPECT_EQ(server_.state().quantize.spec().target().bytes(), 2 << 20);
  EXPECT_FALSE(server_.state().quantize.spec().target().mixed_rates());
  ASSERT_EQ(Run({"quantize", "large", "--target-ppl", "2", "--embedding-bits", "8"}).code, kExitOk);
  EXPECT_DOUBLE_EQ(server_.state().quantize.spec().target().perplexity_increase(), 0.02);
  EXPECT_TRUE(server_.state().quantize.spec().target().mixed_rates());
  EXPECT_EQ(server_.state().quantize.spec().embedding_bits(), 8);
  ASSERT_EQ(Run({"quantize", "large", "--ladder", "3,4.5", "--curve-only"}).code, kExitOk);
  EXPECT_EQ(server_.state().quantize.spec().ladder_size(), 2);
  EXPECT_TRUE(server_.state().quantize.spec().curve_only());
  EXPECT_FALSE(server_.state().quantize.spec().has_target());
  ASSERT_EQ(Run({"quantize", "large", "--rate", "*.down_proj=6", "--rate", "*.q_proj=3"}).code, kExitOk);
  ASSERT_EQ(server_.state().quantize.spec().rates_size(), 2);
  EXPECT_EQ(server_.state().quantize.spec().rates(0).filter(), "*.down_proj");
  EXPECT_EQ(server_.state().quantize.spec().rates(1).bpw(), 3);
  EXPECT_THAT(Run({"quantize", "large", "--rate", "*.q_proj"}).err, HasSubstr("FILTER=BITS"));
  EXPECT_EQ(Run({"quantize", "large", "--curve-only"}).code, kExitUsage);
}

// Before anything is sent: the checkpoint is a local file here, which would be uploaded first.
TEST_F(QamctlTest, FlagsThatExcludeEachOtherAreRefusedBeforeAnUpload) {
  const std::string model = WriteFile("model.gguf", std::string("GGUF\x03\0\0\0", 8) + std::string(100, 'x'));
  const std::vector<std::vector<std::string>> conflicts = {
      {"--bpw", "4", "--target-kl", "0.1"},        {"--bpw", "4", "--ladder", "3,4"},
      {"--bpw", "4", "--target-bytes", "1MB"},     {"--target-bpw", "4", "--target-kl", "0.1"},
      {"--target-kl", "0.1", "--target-ppl", "2"}, {"--ladder", "3,4", "--target-bpw", "4"},
      {"--rate", "*=4", "--target-bpw", "4"},      {"--rate", "*=4", "--ladder", "3,4"},
      {"--ladder", "3,4", "--target-ppl", "2"}};
  for (const std::vector<std::string>& flags : conflicts) {
    std::vector<std::string> arguments = {"quantize", model};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, kExitUsage) << flags[0] << " " << flags[2];
    EXPECT_THAT(result.err, AllOf(HasSubstr(flags[0]), HasSubstr(flags[2])));
  }
  EXPECT_THAT(Run({"quantize", model, "--one-rate"}).err, HasSubstr("--target-bpw"));
  EXPECT_THAT(Run({"quantize", model, "--rate", "*.q_proj"}).err, HasSubstr("FILTER=BITS"));
  EXPECT_EQ(server_.state().upload.files_size(), 0) << "nothing was sent";
}

TEST_F(QamctlTest, AStudyNamesItsMethodsAndWritesItsTable) {
  ASSERT_EQ(Run({"study", "large", "--methods", "joint+ldlq,w8a8", "--rates", "3.5,4", "--no-probes"}).code, kExitOk);
  const v1::CreateStudyJobRequest& request = server_.state().study;
  EXPECT_TRUE(request.without_probes());
  ASSERT_EQ(request.methods_size(), 2);
  EXPECT_TRUE(request.methods(0).spec().error_feedback());
  EXPECT_EQ(request.methods(0).rates_size(), 2);
  EXPECT_EQ(request.methods(1).spec().codec(), v1::CODEC_INT8);
  ASSERT_EQ(request.methods(1).rates_size(), 1);
  EXPECT_EQ(request.methods(1).rates(0), 8);
  EXPECT_THAT(Run({"study"}).err, HasSubstr("checkpoint"));
  EXPECT_EQ(Run({"study", "large", "--methods", "magic"}).code, kExitUsage);

  const Result table = Run({"study", "table", "jobs/1", "--format", "csv"});
  EXPECT_EQ(table.code, kExitOk) << table.err;
  EXPECT_EQ(table.out, "model,kl\n");
  EXPECT_EQ(server_.state().study_table.format(), v1::STUDY_FORMAT_CSV);
}

TEST_F(QamctlTest, WhatFlagsDoNotSayIsTheServersToChoose) {
  ASSERT_EQ(Run({"quantize", "large", "--codec", "full"}).code, kExitOk);
  const auto sent = [&] { return v1::QuantizeSpec(server_.state().quantize.spec()); };
  v1::QuantizeSpec spec = sent();
  EXPECT_EQ(spec.codec(), v1::CODEC_FULL);
  EXPECT_EQ(spec.bpw(), 0);
  EXPECT_FALSE(spec.has_channel_scale());
  EXPECT_EQ(spec.rotation(), v1::ROTATION_UNSPECIFIED);
  EXPECT_FALSE(spec.calibration().has_chat_template());
  ASSERT_EQ(
      Run({"quantize", "large", "--rotation", "full", "--calibration-template", "on", "--evaluation-template", "off"})
          .code,
      kExitOk);
  spec = sent();
  EXPECT_EQ(spec.rotation(), v1::ROTATION_FULL);
  EXPECT_TRUE(spec.calibration().chat_template());
  EXPECT_TRUE(spec.evaluation().has_chat_template());
  EXPECT_FALSE(spec.evaluation().chat_template());
  EXPECT_EQ(Run({"quantize", "large", "--evaluation-template", "maybe"}).code, kExitUsage);
  ASSERT_EQ(Run({"quantize", "large", "--calibration", "built-in"}).code, kExitOk);
  EXPECT_EQ(sent().calibration().text(), "texts/built-in");
  EXPECT_EQ(sent().evaluation().text(), "");
  ASSERT_EQ(Run({"study", "large", "--methods", "full,joint", "--rates", "4"}).code, kExitOk);
  const v1::CreateStudyJobRequest& study = server_.state().study;
  EXPECT_EQ(study.methods(0).spec().codec(), v1::CODEC_FULL);
  EXPECT_EQ(study.methods(0).spec().rotation(), v1::ROTATION_NONE);
  ASSERT_EQ(study.methods(0).rates_size(), 1);
  EXPECT_EQ(study.methods(0).rates(0), 16);
}

TEST_F(QamctlTest, AnAmbiguousNameListsTheCandidates) {
  const Result prefix = Run({"quantize", "abcd"});
  EXPECT_THAT(prefix.err, AllOf(HasSubstr("AMBIGUOUS_NAME"), HasSubstr("checkpoints/abcd11111111 (small)"),
                                HasSubstr("checkpoints/abcd22222222 (large)"), Not(HasSubstr("ef01"))));
  const Result display_name = Run({"quantize", "small"});
  EXPECT_THAT(display_name.err, AllOf(HasSubstr("checkpoints/abcd11111111"), HasSubstr("checkpoints/ef0133333333")));
}

TEST_F(QamctlTest, NamesAreFoundByNameDigestPrefixAndDisplayName) {
  const std::string large = "checkpoints/abcd" + std::string(60, '2');
  for (const std::string& text :
       {large, large.substr(12), large.substr(0, 20), std::string("abcd2"), std::string("large")}) {
    ASSERT_EQ(Run({"quantize", text}).code, kExitOk) << text;
    EXPECT_EQ(server_.state().quantize.checkpoint(), large) << text;
  }
  const Result absent = Run({"quantize", "abc"});
  EXPECT_EQ(absent.code, kExitNotFound) << "three characters are too few";
  EXPECT_THAT(absent.err, HasSubstr("there are checkpoints/abcd11111111 (small)"));
}

TEST_F(QamctlTest, QuantizeUploadsLocalModelAndTextFirst) {
  const std::string model = WriteFile("m.gguf", "weights");
  const std::string text = WriteFile("t.txt", "some text");
  const Result result = Run({"quantize",
                             model,
                             "--calibration",
                             text,
                             "--calibration-windows",
                             "3",
                             "--bpw",
                             "4",
                             "--no-channel-scale",
                             "--rotation",
                             "block",
                             "--seed",
                             "9",
                             "--max-kl",
                             "0.5",
                             "--name",
                             "n",
                             "--load-as",
                             "l",
                             "--priority",
                             "2",
                             "--pool",
                             "cuda",
                             "--project",
                             "team-a",
                             "--window-tokens",
                             "512"});
  ASSERT_EQ(result.code, kExitOk) << result.err;
  const v1::CreateQuantizeJobRequest& request = server_.state().quantize;
  EXPECT_EQ(request.checkpoint(), "checkpoints/" + Sha256Hex(Sha256Hex("weights")));
  EXPECT_EQ(request.spec().calibration().text(), "texts/" + Sha256Hex("some text"));
  EXPECT_EQ(request.spec().calibration().windows(), 3);
  EXPECT_EQ(request.spec().calibration().window_tokens(), 512);
  EXPECT_EQ(request.spec().bpw(), 4);
  EXPECT_FALSE(request.spec().channel_scale());
  EXPECT_EQ(request.spec().rotation(), v1::ROTATION_BLOCK);
  EXPECT_EQ(request.spec().seed(), 9u);
  EXPECT_EQ(request.spec().max_kl(), 0.5);
  EXPECT_EQ(request.display_name(), "n");
  EXPECT_EQ(request.load_as(), "l");
  EXPECT_EQ(request.priority(), 2);
  EXPECT_EQ(request.pool(), "cuda");
  EXPECT_EQ(request.project(), "team-a");
  EXPECT_EQ(request.request_id().size(), 36u);
  EXPECT_THAT(result.err, HasSubstr("qamctl watch jobs/1"));
}

TEST_F(QamctlTest, ValidateOnlyPrintsTheEstimate) {
  const Result result = Run({"quantize", "large", "--validate-only"});
  EXPECT_TRUE(server_.state().quantize.validate_only());
  EXPECT_THAT(result.out, AllOf(HasSubstr("1.2 MiB (1234567 bytes)"), HasSubstr("nothing was started")));
}

TEST_F(QamctlTest, ServingCommandsUseTheRightNames) {
  ASSERT_EQ(Run({"load", "small-5.5", "--name", "x"}).code, kExitOk);
  EXPECT_EQ(server_.state().load.source(), "artifacts/" + ArtifactDigest());
  EXPECT_EQ(server_.state().load.name(), "x");
  ASSERT_EQ(Run({"load", "large", "--name", "y"}).code, kExitOk);
  EXPECT_EQ(server_.state().load.replicas(), 0);
  const Result spread = Run({"load", "large", "--name", "y", "--replicas", "3"});
  ASSERT_EQ(spread.code, kExitOk);
  EXPECT_EQ(server_.state().load.replicas(), 3);
  EXPECT_THAT(spread.out, HasSubstr("1 of 3 replicas READY"));
  EXPECT_EQ(Run({"load", "large", "--name", "y", "--replicas", "0"}).code, kExitUsage);
  EXPECT_EQ(server_.state().load.source(), "checkpoints/abcd" + std::string(60, '2'));
  ASSERT_EQ(Run({"unload", "x"}).code, kExitOk);
  EXPECT_EQ(server_.state().unload.name(), "servedModels/x");
}

TEST_F(QamctlTest, AliasSetSendsModelsAndWeights) {
  const Result result = Run({"alias", "set", "prod", "tiny=95", "servedModels/next=5", "third", "--etag", "e0"});
  ASSERT_EQ(result.code, kExitOk) << result.err;
  const v1::UpdateAliasRequest& request = server_.state().update_alias;
  EXPECT_EQ(request.name(), "aliases/prod");
  ASSERT_EQ(request.targets_size(), 3);
  EXPECT_EQ(request.targets(0).model(), "tiny");
  EXPECT_EQ(request.targets(0).weight(), 95);
  EXPECT_EQ(request.targets(1).model(), "next");
  EXPECT_EQ(request.targets(1).weight(), 5);
  EXPECT_EQ(request.targets(2).weight(), 1) << "the default";
  EXPECT_EQ(request.etag(), "e0");
  EXPECT_EQ(request.request_id().size(), 36u);
  EXPECT_EQ(result.out, "prod  tiny 94.06 %, next 4.95 %, third 0.9901 %\n");
  for (const char* bad : {"tiny=", "tiny=x", "tiny=1.5", "tiny=5=5", "tiny=99999999999"}) {
    const Result refused = Run({"alias", "set", "prod", bad});
    EXPECT_EQ(refused.code, kExitUsage) << bad;
    EXPECT_THAT(refused.err, HasSubstr("MODEL=WEIGHT")) << bad;
  }
  EXPECT_EQ(Run({"alias", "set", "prod"}).code, kExitUsage) << "no target";
  const Result dry = Run({"alias", "set", "aliases/dry", "tiny", "--validate-only"});
  EXPECT_TRUE(server_.state().update_alias.validate_only());
  EXPECT_EQ(server_.state().update_alias.name(), "aliases/dry");
  EXPECT_THAT(dry.err, HasSubstr("nothing was changed"));
}

TEST_F(QamctlTest, AliasesAreListedShownAndDeleted) {
  EXPECT_THAT(Run({"alias"}).err, HasSubstr("qamctl alias set"));
  ASSERT_EQ(Run({"alias", "set", "prod", "tiny=3", "gone=1"}).code, kExitOk);
  ASSERT_EQ(Run({"alias", "set", "list", "tiny"}).code, kExitOk) << "a name may be that of a verb";
  const Result list = Run({"alias", "list"});
  EXPECT_THAT(list.out, AllOf(HasSubstr("prod   tiny 75 %, gone 25 %"), HasSubstr("list   tiny 100 %")));
  const Result show = Run({"alias", "show", "prod"});
  EXPECT_THAT(show.out, AllOf(HasSubstr("etag e1"), testing::ContainsRegex("tiny +3 +75 % +READY"),
                              testing::ContainsRegex("gone +1 +25 % +not loaded")));
  EXPECT_THAT(Run({"models"}).out, HasSubstr("prod 75 %, list 100 %"));
  EXPECT_EQ(Run({"alias", "delete", "prod"}).out, "deleted aliases/prod\n");
  const Result gone = Run({"alias", "show", "prod"});
  EXPECT_EQ(gone.code, kExitNotFound);
  EXPECT_THAT(gone.err, AllOf(HasSubstr("ALIAS_NOT_FOUND"), HasSubstr("qamctl alias list")));
}

TEST_F(QamctlTest, GenerateStreamsTextAndPassesSamplingFlags) {
  stdin_ = "from stdin";
  const Result result = Run({"generate", "tiny", "-", "--temperature", "0", "--top-p", "0.9", "--seed", "5", "--stop",
                             "a", "--stop", "b", "--max-tokens", "7", "--stats"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "Hello, world\n");
  EXPECT_THAT(result.err, AllOf(HasSubstr("[answerer: "), HasSubstr("seed 7")));
  const v1::GenerateRequest& request = server_.state().generate;
  EXPECT_EQ(request.prompt(), "from stdin");
  EXPECT_EQ(request.model(), "tiny");
  EXPECT_TRUE(request.params().has_temperature());
  EXPECT_EQ(request.params().temperature(), 0);
  EXPECT_EQ(request.params().top_p(), 0.9);
  EXPECT_FALSE(request.params().has_repetition_penalty());
  EXPECT_THAT(request.params().stop(), testing::ElementsAre("a", "b"));
  EXPECT_EQ(request.params().max_tokens(), 7);
}

TEST_F(QamctlTest, ConstraintsComeFromFlagsAndFiles) {
  const auto constraint = [&] { return server_.state().generate.params().constraint(); };
  EXPECT_EQ(Run({"generate", "tiny", "x"}).code, kExitOk);
  EXPECT_FALSE(server_.state().generate.params().has_constraint());
  EXPECT_EQ(Run({"generate", "tiny", "x", "--json-object"}).code, kExitOk);
  EXPECT_TRUE(constraint().json_object());
  EXPECT_EQ(Run({"generate", "tiny", "x", "--json-schema", WriteFile("s.json", "{\"type\": \"null\"}")}).code, kExitOk);
  EXPECT_EQ(constraint().json_schema(), "{\"type\": \"null\"}");
  EXPECT_EQ(Run({"generate", "tiny", "x", "--grammar", WriteFile("g.gbnf", "root ::= \"a\"")}).code, kExitOk);
  EXPECT_EQ(constraint().grammar(), "root ::= \"a\"");
  EXPECT_EQ(Run({"generate", "tiny", "x", "--regex", "[a-z]+"}).code, kExitOk);
  EXPECT_EQ(constraint().regex(), "[a-z]+");
  EXPECT_EQ(Run({"chat", "tiny", "--message", "x", "--choice", "yes, \"so\"", "--choice", "no"}).code, kExitOk);
  EXPECT_EQ(server_.state().chats.back().params().constraint().choice_json(), R"(["yes, \"so\"","no"])");
  const Result absent = Run({"generate", "tiny", "x", "--json-schema", "/nowhere.json"});
  EXPECT_EQ(absent.code, kExitUsage);
  EXPECT_THAT(absent.err, AllOf(HasSubstr("--json-schema"), HasSubstr("/nowhere.json")));
  EXPECT_EQ(Run({"generate", "tiny", "x", "--grammar", WriteFile("bad", "\xff")}).code, kExitUsage);
  EXPECT_EQ(Run({"generate", "tiny", "x", "--regex", "a", "--json-object"}).code, kExitUsage);
}

TEST_F(QamctlTest, APromptMayBeTheNameOfACommand) {
  EXPECT_EQ(Run({"generate", "tiny", "version"}).code, kExitOk);
  EXPECT_EQ(server_.state().generate.prompt(), "version");
}

TEST_F(QamctlTest, ChatKeepsHistoryUntilReset) {
  stdin_ = "one\ntwo\n\n/reset\nthree\n/quit\nfour\n";
  const Result result = Run({"chat", "tiny", "--system", "be kind"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  const std::vector<v1::ChatRequest>& chats = server_.state().chats;
  ASSERT_EQ(chats.size(), 3u);
  ASSERT_EQ(chats[1].messages_size(), 4);
  EXPECT_EQ(chats[1].messages(0).role(), "system");
  EXPECT_EQ(chats[1].messages(2).role(), "assistant");
  EXPECT_EQ(chats[1].messages(2).content(), "Hello, world");
  EXPECT_EQ(chats[1].messages(3).content(), "two");
  EXPECT_EQ(chats[2].messages_size(), 2) << "/reset keeps the system message only";
  EXPECT_EQ(result.out, "Hello, world\nHello, world\nHello, world\n");
}

TEST_F(QamctlTest, ChatOnceWithMessage) {
  stdin_ = "two\nlines";
  EXPECT_EQ(Run({"chat", "tiny", "--message", "hi"}).out, "Hello, world\n");
  EXPECT_EQ(Run({"chat", "tiny", "--message", "-"}).code, kExitOk);
  EXPECT_EQ(server_.state().chats[1].messages(0).content(), "two\nlines");
}

TEST_F(QamctlTest, PenaltiesBiasToolsAndTemplateArgumentsReachTheServer) {
  ASSERT_EQ(Run({"generate", "tiny", "x", "--presence-penalty", "0.5", "--frequency-penalty", "-1", "--logit-bias",
                 "7=-100", "--logit-bias", "9=2.5"})
                .code,
            kExitOk);
  const v1::SamplingParams params = server_.state().generate.params();
  EXPECT_EQ(params.presence_penalty(), 0.5);
  EXPECT_EQ(params.frequency_penalty(), -1);
  ASSERT_EQ(params.logit_bias_size(), 2);
  EXPECT_EQ(params.logit_bias().at(7), -100);
  EXPECT_EQ(params.logit_bias().at(9), 2.5);
  for (const char* bad : {"7", "7=", "=1", "x=1", "7=101", "7=nan", "-1=1"}) {
    const Result result = Run({"generate", "tiny", "x", "--logit-bias", bad});
    EXPECT_EQ(result.code, kExitUsage) << bad;
    EXPECT_THAT(result.err, HasSubstr("--logit-bias")) << bad;
  }
  EXPECT_EQ(Run({"generate", "tiny", "x", "--presence-penalty", "2.1"}).code, kExitUsage);

  const std::string tools = WriteFile("tools.json", R"([{"type": "function"}])");
  ASSERT_EQ(Run({"chat", "tiny", "--message", "hi", "--tools", tools, "--template-args", R"({"a": 1})"}).code, kExitOk);
  EXPECT_EQ(server_.state().chats[0].tools_json(), R"([{"type": "function"}])");
  EXPECT_EQ(server_.state().chats[0].template_args_json(), R"({"a": 1})");
  EXPECT_EQ(Run({"chat", "tiny", "--message", "hi", "--tools", folder_ / "absent"}).code, kExitNotFound);
}

TEST_F(QamctlTest, ScoreShowsTheLikeliestTokens) {
  const Result result = Run({"score", "tiny", "x", "--top", "2"});
  EXPECT_EQ(server_.state().score.top(), 2);
  EXPECT_THAT(result.out, HasSubstr("the\\n -0.5000 | a -1.5000"));
  EXPECT_EQ(Run({"score", "tiny", "x", "--top", "21"}).code, kExitUsage);
}

TEST_F(QamctlTest, EmbedShowsVectorsAndTheirAngles) {
  stdin_ = "from the pipe";
  const Result result = Run({"embed", "tiny", "one", "-", "--normalize"});
  ASSERT_EQ(result.code, kExitOk) << result.err;
  const v1::EmbedRequest request = server_.state().embed;
  EXPECT_EQ(request.model(), "tiny");
  EXPECT_TRUE(request.normalize());
  ASSERT_EQ(request.inputs_size(), 2);
  EXPECT_EQ(request.inputs(0).text(), "one");
  EXPECT_EQ(request.inputs(1).text(), "from the pipe");
  EXPECT_THAT(result.out, HasSubstr("2.0000  2.00000 0.00000 0.00000 0.00000 ..."));
  EXPECT_THAT(result.out, HasSubstr("COSINE       0       1\n     0  1.0000  0.0000\n     1  0.0000  1.0000\n"));
  EXPECT_THAT(Run({"embed", "tiny", "one"}).out, testing::Not(HasSubstr("COSINE")));
}

TEST_F(QamctlTest, CompareShowsWhereTwoModelsDiffer) {
  const Result brief = Run({"compare", "tiny", "servedModels/other", "text", "--prompt", "before"});
  EXPECT_EQ(brief.out, "mean KL 0.250000 nats over 2 tokens, the same likeliest token at 50 %\n");
  EXPECT_EQ(server_.state().compare.other(), "other");
  EXPECT_EQ(server_.state().compare.prompt(), "before");
  EXPECT_EQ(server_.state().compare.messages_size(), 0);

  const Result table = Run({"compare", "tiny", "other", "text", "--message", "hi", "--system", "short", "--tokens"});
  EXPECT_THAT(table.out, HasSubstr("x\\n"));
  EXPECT_THAT(table.out, HasSubstr("z (not the base's)"));
  const v1::CompareRequest request = server_.state().compare;
  ASSERT_EQ(request.messages_size(), 2);
  EXPECT_EQ(request.messages(0).role(), "system");
  EXPECT_EQ(request.messages(1).content(), "hi");
  EXPECT_EQ(Run({"compare", "tiny", "other", "text", "--prompt", "a", "--message", "b"}).code, kExitUsage);
}

TEST_F(QamctlTest, WorkersAreListedWithWhatTheyHaveToWorkWith) {
  v1::Instance instance;
  instance.set_name("instances/3f9c");
  instance.set_host("machine-1");
  instance.add_roles("worker");
  instance.add_roles("inference");
  instance.add_pools("cuda");
  instance.set_device("cuda:0 (NVIDIA H200, 139.8 GiB)");
  instance.set_kernels("avx512");
  instance.set_threads(16);
  instance.set_memory_bytes(int64_t{96} << 30);
  instance.set_codec_version("qamw-5");
  instance.set_tasks(2);
  v1::Replica* replica = instance.add_replicas();
  replica->set_model("servedModels/tiny");
  replica->set_state("READY");
  server_.state().instances.push_back(instance);
  const Result result = Run({"admin", "workers"});
  ASSERT_EQ(result.code, kExitOk) << result.err;
  const size_t line = result.out.find('\n');
  EXPECT_THAT(result.out.substr(0, line),
              testing::ContainsRegex("DEVICE +KERNELS +THREADS +MEMORY +CODEC +TASKS +MODELS"));
  EXPECT_THAT(
      result.out.substr(line),
      testing::ContainsRegex("3f9c +machine-1 +worker,inference +cuda +cuda:0 \\(NVIDIA H200, 139.8 GiB\\) +avx512 +16 "
                             "+96.0 GiB +qamw-5 +2 +tiny=READY"));
}

TEST_F(QamctlTest, ScoreTokenizeDetokenize) {
  EXPECT_THAT(Run({"score", "tiny", "x"}).out, HasSubstr("-3.0000 nats over 2 tokens, perplexity 4.4817"));
  EXPECT_EQ(Run({"tokenize", "tiny", "AB"}).out, "65 66\n");
  EXPECT_EQ(Run({"detokenize", "tiny", "65", "66,67"}).out, "ABC\n");
}

TEST_F(QamctlTest, ReportShowsQualityAndTheWorstTensors) {
  v1::Report& report = server_.state().report;
  report.mutable_quality()->set_scored_tokens(8184);
  report.mutable_quality()->set_kl_mean(0.0142);
  report.mutable_quality()->set_kl_ci95_low(0.0137);
  report.mutable_quality()->set_kl_ci95_high(0.0147);
  report.mutable_quality()->set_top1_agreement(0.934);
  for (int i = 0; i < 20; ++i) {
    report.add_tensors()->set_name("tensor" + std::to_string(i) + ".");
    report.mutable_tensors(i)->set_distortion(i * 0.001);
  }
  const Result result = Run({"report", "small-5.5", "--worst", "2"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("mean 0.01420"), HasSubstr("[0.01370, 0.01470]"), HasSubstr("93.40 %"),
                                HasSubstr("tensor19."), HasSubstr("tensor18."), Not(HasSubstr("tensor17."))));
}

TEST_F(QamctlTest, DownloadWritesTheFolder) {
  const Result result = Run({"artifacts", "download", "small-5.5", "--output", folder_ / "out"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(ReadFile(folder_ / "out/config.json", 10).value(), "{}");
}

TEST(Text, NumbersAndNamesAsPeopleReadThem) {
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanCount(134515008), "134.5M");
  EXPECT_EQ(HumanSeconds(-1), "?");
  EXPECT_EQ(HumanSeconds(200), "3 min 20 s");
  EXPECT_EQ(ShortName("artifacts/" + std::string(64, 'a')), "artifacts/" + std::string(12, 'a'));
  EXPECT_EQ(ShortName("jobs/1"), "jobs/1");
  EXPECT_EQ(Clip("abcdef", 4), "abc…");
  EXPECT_EQ(Clip("äöüß", 4), "äöüß");
  EXPECT_EQ(Bar(0.5, 4), "[##--]");
}

TEST(Text, ColumnsAreThoseOfAScreen) {
  EXPECT_EQ(Columns("a\u0301\u540d\U0001f600"), 5) << "an accent takes none, an ideograph and an emoji two";
  EXPECT_EQ(Columns("\xff\x80\x80\x80\x80\x80"), 3) << "not UTF-8, but no harm";
  EXPECT_EQ(Clip("\u540d\u524d\u3067", 4), "\u540d…") << "half of a character does not fit";
  EXPECT_EQ(ClipMiddle("model.layers.0.q_proj", 11), "model…_proj");
  EXPECT_EQ(ClipMiddle("\u540d\u524d\u540d\u524d", 5), "\u540d…\u524d");
  EXPECT_EQ(ClipMiddle("abc", 3), "abc");
  EXPECT_EQ(ClipMiddle("abc", 0), "…");
  EXPECT_THAT(Flow({"one", "", "two", "three", "fourfourfour"}, 9),
              testing::ElementsAre("one  two", "three", "four…four"));
  EXPECT_EQ(Shown("a\x1b[2J\n\x7f\u009b é"), "a\ufffd[2J\ufffd\ufffd\ufffd é");
  EXPECT_EQ(Shown("a\n\tb\r", true), "a\n\tb\ufffd");
}

TEST_F(QamctlTest, WhatAModelWritesDoesNotCommandTheTerminal) {
  server_.state().answer = {"\x1b]0;title\a", "ä\n", "日本"};
  EXPECT_THAT(Run({"generate", "tiny", "hi"}).out, HasSubstr("\x1b]0;title\aä\n日本\n")) << "a pipe gets the bytes";
  tty_ = true;
  EXPECT_THAT(Run({"generate", "tiny", "hi"}).out, HasSubstr("\ufffd]0;title\ufffdä\n日本\n"));
}

}  // namespace
}  // namespace qamserve::qamctl
