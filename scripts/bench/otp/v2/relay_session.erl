%% A session: one connection, and the state of a broadcast's track. Version 2 keeps the parameter sets one by one, which
%% is what patches/codec_fix.py changes in streamd.
%%
%% Lines that a client says, and what is answered: see version 1; here with a 2 in place of the 1.
-module(relay_session).
-vsn("2").
-behaviour(gen_server).

-export([start_link/1, begin_reading/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, code_change/3]).

-record(state, {
    socket, name = <<>>, sps = [], pps = [], rest = <<>>, waiting = [], nal_length = 4, frames = 0, metadata = #{}
}).

start_link(Socket) ->
    gen_server:start_link(?MODULE, Socket, []).

begin_reading(Session) ->
    gen_server:cast(Session, read).

init(Socket) ->
    {ok, #state{socket = Socket, metadata = #{width => 1280, height => 720, encoder => <<"bench">>}}}.

handle_call(_Request, _From, State) ->
    {reply, ok, State}.

handle_cast(read, #state{socket = Socket} = State) ->
    ok = inet:setopts(Socket, [{active, once}]),
    {noreply, State}.

handle_info({tcp, Socket, Line}, #state{socket = Socket} = State) ->
    ok = inet:setopts(Socket, [{active, once}]),
    {noreply, said(string:lexemes(Line, " \n"), State)};
handle_info({tcp_closed, Socket}, #state{socket = Socket} = State) ->
    {stop, normal, State}.

said([<<"begin">>, Name, Config], State) ->
    {Sps, Pps, Rest} = parse_config(binary:decode_hex(Config)),
    answer(<<"begun">>, State#state{name = Name, sps = Sps, pps = Pps, rest = Rest});
said([<<"ping">>, Number], State) ->
    answer(<<"pong ", Number/binary>>, State#state{frames = State#state.frames + 1}).

answer(Said, #state{socket = Socket} = State) ->
    _ = gen_tcp:send(Socket, [Said, <<" 2\n">>]), % to one that is gone: tcp_closed comes next
    State.

code_change({down, _To}, #state{} = State, _Extra) ->
    Config = pack_config(State#state.sps, State#state.pps, State#state.rest),
    {ok, {state, State#state.socket, State#state.name, Config, State#state.frames, State#state.metadata}};
code_change(_From, {state, Socket, Name, Config, Frames, Metadata}, _Extra) ->
    {Sps, Pps, Rest} = parse_config(Config),
    {ok, #state{
        socket = Socket, name = Name, sps = Sps, pps = Pps, rest = Rest, frames = Frames, metadata = Metadata
    }}.

%% AVCDecoderConfigurationRecord, ISO/IEC 14496-15 5.2.4.1. This believes that there is one parameter set of each kind,
%% which is so for nearly every encoder: a record with two is the migration that fails.
parse_config(<<>>) ->
    {[], [], <<>>};
parse_config(<<1, _:24, _:6, _NalLength:2, _:3, 1:5, A:16, Sps:A/binary, 1, B:16, Pps:B/binary, Rest/binary>>) ->
    {[Sps], [Pps], Rest}.

pack_config([], _Pps, _Rest) ->
    <<>>;
pack_config([<<_, Profile, Compatibility, Level, _/binary>> | _] = Sps, Pps, Rest) ->
    Sets = fun(Of) -> << <<(byte_size(Set)):16, Set/binary>> || Set <- Of >> end,
    <<1, Profile, Compatibility, Level, 16#FF, 7:3, (length(Sps)):5, (Sets(Sps))/binary,
        (length(Pps)), (Sets(Pps))/binary, Rest/binary>>.
