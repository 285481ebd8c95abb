#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "core/base/file.h"
#include "tests/support/temp_folder.h"

namespace qamserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const char* Nothing(const char*) { return nullptr; }
const char* SomeThreads(const char* name) { return std::strcmp(name, "QAMSERVE_THREADS") == 0 ? "5" : nullptr; }
const char* RemoteAllowed(const char* name) {
  return std::strcmp(name, "QAMSERVE_INSECURE_ALLOW_REMOTE") == 0 ? "true" : nullptr;
}

ParsedOptions Parse(std::vector<const char*> arguments, Environment environment = Nothing) {
  arguments.insert(arguments.begin(), "qamserve");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data(), environment);
}

TEST(OptionsTest, DefaultsAreFit) {
  const ParsedOptions parsed = Parse({});
  EXPECT_FALSE(parsed.exit_code) << parsed.output;
  EXPECT_EQ(parsed.options.listen, "127.0.0.1:50051");
  EXPECT_THAT(parsed.options.roles, ElementsAre("api", "worker", "inference"));
}

TEST(OptionsTest, FlagsGoBeforeEnvironmentBeforeFile) {
  TempFolder dir;
  const std::string path = dir / "qamserve.toml";
  ASSERT_TRUE(WriteFileAtomically(path, "threads = 3\nmax-running = 7\n").ok());
  ParsedOptions parsed = Parse({"--config", path.c_str()});
  EXPECT_FALSE(parsed.exit_code) << parsed.output;
  EXPECT_EQ(parsed.options.threads, 3);
  EXPECT_EQ(parsed.options.max_running, 7);
  parsed = Parse({"--config", path.c_str()}, SomeThreads);
  EXPECT_EQ(parsed.options.threads, 5);
  EXPECT_EQ(parsed.options.max_running, 7);
  parsed = Parse({"--config", path.c_str(), "--threads", "9"}, SomeThreads);
  EXPECT_EQ(parsed.options.threads, 9);
}

TEST(OptionsTest, UnknownNamesAreErrors) {
  EXPECT_EQ(Parse({"--no-such-flag"}).exit_code, 2);
  EXPECT_NE(Parse({"--roles", "api,boss"}).exit_code.value_or(0), 0);
  EXPECT_THAT(Parse({"--roles", "api,boss"}).output, HasSubstr("boss"));
  TempFolder dir;
  const std::string path = dir / "qamserve.toml";
  ASSERT_TRUE(WriteFileAtomically(path, "treads = 3\n").ok());
  EXPECT_NE(Parse({"--config", path.c_str()}).exit_code.value_or(0), 0);
  EXPECT_NE(Parse({"--config", "/nowhere.toml"}).exit_code.value_or(0), 0);
}

TEST(OptionsTest, HelpNamesEveryFlagWithItsVariable) {
  const ParsedOptions parsed = Parse({"--help"});
  EXPECT_EQ(parsed.exit_code, 0);
  for (const char* flag : {"--data-dir", "--listen", "--http-listen", "--metrics-listen", "--import-root", "--threads", "--kernels", "--device",
                           "--memory-limit-mib", "--roles", "--drain-seconds", "--log-level", "--config"}) {
    EXPECT_THAT(parsed.output, HasSubstr(flag));
  }
  EXPECT_THAT(parsed.output, HasSubstr("QAMSERVE_DATA_DIR"));
  EXPECT_THAT(parsed.output, HasSubstr("127.0.0.1:50051"));
  EXPECT_THAT(parsed.output, HasSubstr("second signal"));
}

const char* AdminKey(const char* name) {
  return std::strcmp(name, "QAMSERVE_ADMIN_KEY") == 0 ? "0123456789abcdef0123456789abcdef" : nullptr;
}

TEST(OptionsTest, TlsAndAdminKeys) {
  EXPECT_THAT(Parse({"--tls-cert", "c"}).output, HasSubstr("both or none"));
  EXPECT_THAT(Parse({"--tls-key", "k"}).output, HasSubstr("both or none"));
  EXPECT_THAT(Parse({"--tls-client-ca", "k"}).output, HasSubstr("--tls-client-ca needs"));
  EXPECT_FALSE(Parse({"--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"}).exit_code);
  const ParsedOptions remote = Parse({"--tls-cert", "c", "--tls-key", "k", "--listen", "0.0.0.0:1"});
  EXPECT_FALSE(remote.exit_code) << remote.output;
  EXPECT_TRUE(remote.options.ReachesOut());
  EXPECT_FALSE(Parse({"--tls-cert", "c", "--tls-key", "k"}).options.ReachesOut());
  EXPECT_FALSE(Parse({"--listen", "0.0.0.0:1", "--insecure-allow-remote"}).options.ReachesOut());
  EXPECT_EQ(Parse({}, AdminKey).options.admin_key, "0123456789abcdef0123456789abcdef");
  EXPECT_THAT(Parse({"--admin-key-file", "f"}, AdminKey).output, HasSubstr("give one"));
  EXPECT_EQ(Parse({"--help"}, AdminKey).output.find("0123456789abcdef"), std::string::npos);
}

TEST(OptionsTest, RemoteAddressesNeedToBeAskedFor) {
  EXPECT_THAT(Parse({"--listen", "0.0.0.0:1"}).output, HasSubstr("--insecure-allow-remote"));
  EXPECT_THAT(Parse({"--metrics-listen", "192.168.0.1:1"}).output, HasSubstr("--insecure-allow-remote"));
  EXPECT_THAT(Parse({"--http-listen", "[::]:1"}).output, HasSubstr("--http-listen [::]:1 can be reached"));
  EXPECT_FALSE(Parse({"--http-listen", "off"}).exit_code);
  EXPECT_FALSE(Parse({"--listen", "0.0.0.0:1", "--insecure-allow-remote"}).exit_code);
  EXPECT_FALSE(Parse({"--listen", "0.0.0.0:1"}, RemoteAllowed).exit_code);
  EXPECT_FALSE(Parse({"--listen", "[::1]:1", "--metrics-listen", "localhost:0"}).exit_code);
}

TEST(OptionsTest, AddressesAreChecked) {
  for (const char* bad : {"", "host", "host:", ":1", "host:x", "host:65536", "host:-1", "::1:5"}) {
    EXPECT_FALSE(ParseListenAddress("--listen", bad).ok()) << bad;
  }
  const auto address = ParseListenAddress("--listen", "[::1]:7");
  ASSERT_TRUE(address.ok());
  EXPECT_EQ(address->host, "::1");
  EXPECT_EQ(address->port, 7);
  EXPECT_TRUE(IsLoopback("127.3.2.1"));
  EXPECT_FALSE(IsLoopback("128.0.0.1"));
  EXPECT_FALSE(IsLoopback("example.org"));
}

TEST(OptionsTest, StoresOfAFleetBelongTogether) {
  const std::vector<const char*> fleet = {"--metadata-store", "postgresql://user:secret@db/qamserve",
                                          "--blob-store",     "s3://blobs/models",
                                          "--s3-endpoint",    "http://s3:8333"};
  const auto with = [&](std::vector<const char*> more) {
    more.insert(more.begin(), fleet.begin(), fleet.end());
    return Parse(more);
  };
  const ParsedOptions parsed = with({});
  EXPECT_FALSE(parsed.exit_code) << parsed.output;
  EXPECT_TRUE(parsed.options.InFleet());
  EXPECT_FALSE(Parse({}).options.InFleet());
  EXPECT_THAT(Parse({"--metadata-store", "postgresql://db/x"}).output, HasSubstr("both or none"));
  EXPECT_THAT(Parse({"--blob-store", "s3://b"}).output, HasSubstr("both or none"));
  const ParsedOptions no_uri = Parse({"--metadata-store", "mysql://user:secret@db", "--blob-store", "s3://blobs"});
  EXPECT_THAT(no_uri.output, HasSubstr("postgresql://"));
  EXPECT_EQ(no_uri.output.find("secret"), std::string::npos);
  EXPECT_THAT(Parse({"--metadata-store", "postgresql://db/x", "--blob-store", "s3://blobs"}).output,
              HasSubstr("--s3-endpoint"));
  EXPECT_THAT(Parse({"--metadata-store", "postgresql://db/x", "--blob-store", "blobs"}).output,
              HasSubstr("--blob-store"));
  EXPECT_THAT(with({"--import-mode", "reference"}).output, HasSubstr("--import-mode reference"));
  EXPECT_THAT(with({"--blob-cache-mib", "-1"}).output, HasSubstr("--blob-cache-mib"));
}

TEST(OptionsTest, ACommandOnTheMetadataStoreNeedsNoOther) {
  const auto parse = [](const char* store) {
    const std::vector<const char*> arguments = {"qamserve", "--metadata-store", store};
    return ParseOptions(static_cast<int>(arguments.size()), arguments.data(), Nothing, ValidateMetadataOptions);
  };
  const ParsedOptions parsed = parse("postgresql://user:secret@db/qamserve");
  EXPECT_FALSE(parsed.exit_code) << parsed.output;
  EXPECT_TRUE(parsed.options.InFleet());
  const ParsedOptions no_uri = parse("mysql://user:secret@db");
  EXPECT_EQ(no_uri.exit_code, 2);
  EXPECT_THAT(no_uri.output, HasSubstr("postgresql://"));
  EXPECT_EQ(no_uri.output.find("secret"), std::string::npos);
}

TEST(OptionsTest, WhatAWorkerTakes) {
  EXPECT_THAT(Parse({}).options.WorkerPools(), ElementsAre("cpu"));
  EXPECT_THAT(Parse({"--quantize-device", "cuda:0"}).options.WorkerPools(), ElementsAre("cpu", "cuda"));
  EXPECT_THAT(Parse({"--pools", "night,big-memory"}).options.WorkerPools(), ElementsAre("night", "big-memory"));
  EXPECT_THAT(Parse({"--pools", "Night"}).output, HasSubstr("--pools: \"Night\""));
  EXPECT_EQ(Parse({}).options.worker_nice, 10);
  EXPECT_THAT(Parse({"--worker-nice", "20"}).output, HasSubstr("--worker-nice"));
}

TEST(OptionsTest, OthersReachAProcessWhereItSays) {
  const auto advertised = [](std::vector<const char*> arguments) {
    arguments.push_back("--insecure-allow-remote");
    const ParsedOptions parsed = Parse(arguments);
    EXPECT_FALSE(parsed.exit_code) << parsed.output;
    return AdvertisedAddress(parsed.options, 4711).value_or("");
  };
  EXPECT_EQ(advertised({"--listen", "127.0.0.1:0"}), "127.0.0.1:4711");
  EXPECT_EQ(advertised({"--listen", "[::1]:0"}), "[::1]:4711");
  EXPECT_EQ(advertised({"--listen", "0.0.0.0:4711"}), HostName() + ":4711");
  EXPECT_EQ(advertised({"--listen", "[::]:4711"}), HostName() + ":4711");
  EXPECT_EQ(advertised({"--listen", "0.0.0.0:0", "--advertise", "pod-1.qamserve:0"}), "pod-1.qamserve:4711");
  EXPECT_EQ(advertised({"--listen", "0.0.0.0:0", "--advertise", "10.0.0.7:9"}), "10.0.0.7:9");
  EXPECT_THAT(Parse({"--advertise", "0.0.0.0:1"}).output, HasSubstr("--advertise"));
  EXPECT_THAT(Parse({"--advertise", "nowhere"}).output, HasSubstr("--advertise"));
  EXPECT_THAT(Parse({"--fleet-ca", "ca.pem"}).output, HasSubstr("--fleet-ca needs"));
}

TEST(OptionsTest, MemoryIsThatOfTheControlGroup) {
  const TempFolder folder;
  const int64_t machine = MachineMemoryBytes(folder / "nowhere");
  EXPECT_GT(machine, 64 << 20);
  const auto with = [&](const std::string& file, const std::string& text) {
    const std::string groups = folder / std::to_string(std::hash<std::string>()(file + text));
    std::filesystem::create_directories(groups + "/memory");
    EXPECT_TRUE(WriteFileAtomically(groups + file, text).ok());
    return MachineMemoryBytes(groups);
  };
  EXPECT_EQ(with("/memory.max", "50331648\n"), 48 << 20);
  EXPECT_EQ(with("/memory.max", "max\n"), machine);
  EXPECT_EQ(with("/memory/memory.limit_in_bytes", "50331648\n"), 48 << 20);
  EXPECT_EQ(with("/memory/memory.limit_in_bytes", "9223372036854771712\n"), machine);
  EXPECT_EQ(with("/memory/memory.limit_in_bytes", "18446744073709551615\n"), machine);
}

TEST(OptionsTest, TheGroupsAboveThatOfTheProcessLimitIt) {
  const TempFolder folder;
  const auto write = [&](const std::string& file, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder / file).parent_path());
    EXPECT_TRUE(WriteFileAtomically(folder / file, text).ok());
  };
  const auto memory = [&](const std::string& mine) {
    write("mine", mine);
    return MachineMemoryBytes(folder / "groups", folder / "mine");
  };
  const int64_t machine = MachineMemoryBytes(folder / "nowhere", folder / "nothing");
  write("groups/slice/service/memory.max", "50331648\n");
  write("groups/slice/other/memory.max", "16777216\n");
  write("groups/memory/docker/c0ffee/memory.limit_in_bytes", "33554432\n");
  EXPECT_EQ(memory("0::/slice/service\n"), 48 << 20);
  EXPECT_EQ(memory("0::/slice/service/below\n"), 48 << 20);
  EXPECT_EQ(memory("0::/slice\n"), machine) << "the groups of others and those below are not its own";
  EXPECT_EQ(memory("0::/\n"), machine);
  EXPECT_EQ(memory("12:pids:/slice/service\n4:cpu,memory:/docker/c0ffee\n1:name=systemd:/slice/other\n"), 32 << 20);
  EXPECT_EQ(memory("0::/../slice/other\n0::slice/other\nnonsense\n"), machine);
  write("groups/slice/memory.max", "25165824\n");
  EXPECT_EQ(memory("0::/slice/service\n"), 24 << 20) << "the least holds";
}

TEST(OptionsTest, RangesNameTheFlag) {
  EXPECT_THAT(Parse({"--threads", "-1"}).output, HasSubstr("--threads"));
  EXPECT_THAT(Parse({"--drain-seconds", "1e9"}).output, HasSubstr("--drain-seconds"));
  EXPECT_THAT(Parse({"--log-level", "loud"}).output, HasSubstr("loud"));
  EXPECT_THAT(Parse({"--kernels", "riscv"}).output, HasSubstr("this machine runs scalar"));
  EXPECT_THAT(Parse({"--device", "gpu"}).output, HasSubstr("--device: there is no device \"gpu\""));
  EXPECT_THAT(Parse({"--quantize-device", "gpu"}).output, HasSubstr("--quantize-device: there is no device \"gpu\""));
  EXPECT_FALSE(Parse({"--device", "cuda:1"}).exit_code) << "whether it is there is seen when the server starts";
  EXPECT_THAT(Parse({"--import-mode", "move"}).output, HasSubstr("--import-mode"));
}

}  // namespace
}  // namespace qamserve
