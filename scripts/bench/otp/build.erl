%% Makes the release of version 1 that a node boots, and the package of version 2 that an operator unpacks, as chapter
%% 11 of OTP's Design Principles says: scripts, relup, tar.
%%
%%     erl -noshell -pa DIRECTORY-OF-THIS -run build main      with ROOTDIR = the target system's directory
-module(build).

-export([main/0]).

main() ->
    Root = code:root_dir(),
    Paths = [filename:join([Root, "lib", App ++ "-" ++ Version, "ebin"]) || {App, Version} <- applications()],
    Relays = [filename:join([Root, "lib", "relay-" ++ Version, "ebin"]) || Version <- ["1", "2"]],
    Options = [{path, Paths ++ Relays}, silent],
    Releases = filename:join(Root, "releases"),
    [script(Releases, Version, Options) || Version <- ["1", "2"]],
    Name = fun(Version) -> filename:join([Releases, Version, "relay-" ++ Version]) end,
    {ok, _, _, []} = systools:make_relup(Name("2"), [Name("1")], [Name("1")], [
        {outdir, filename:join(Releases, "2")} | Options
    ]),
    {ok, _, []} = systools:make_tar(Name("2"), [{outdir, Releases} | Options]),
    ok = release_handler:create_RELEASES(Root, Releases, Name("1") ++ ".rel", []),
    ok = file:write_file(filename:join(Releases, "start_erl.data"), [erlang:system_info(version), " 1\n"]),
    init:stop().

script(Releases, Version, Options) ->
    Name = filename:join([Releases, Version, "relay-" ++ Version]),
    ok = filelib:ensure_dir(Name),
    Release = {release, {"relay", Version}, {erts, erlang:system_info(version)},
        [{list_to_atom(App), Is} || {App, Is} <- applications()] ++ [{relay, Version}]},
    ok = file:write_file(Name ++ ".rel", io_lib:format("~p.~n", [Release])),
    {ok, _, []} = systools:make_script(Name, [{outdir, filename:dirname(Name)} | Options]),
    {ok, _} = file:copy(Name ++ ".boot", filename:join([Releases, Version, "start.boot"])).

applications() ->
    [{App, version(App)} || App <- ["kernel", "stdlib", "sasl"]].

version(App) ->
    [Found] = filelib:wildcard(App ++ "-*", filename:join(code:root_dir(), "lib")),
    lists:nthtail(length(App) + 1, Found).
