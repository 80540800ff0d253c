(* The three forms of figure 3 compute one function, and their weights convert in both directions. *)

From ResNeXt Require Export Convolution.

(* --- Functions between the convolutions --------------------------------------------------------------- *)

(* A function of one channel over the whole batch, such as ReLU, batch norm with running statistics, or batch
   norm with the statistics of the batch (batch_norm in Blocks.v). *)
Definition channel_function (K : commutative_ring) := plane K -> plane K.

(* f and g map planes with the same numbers to planes with the same numbers. same_function f f says only that
   f's result depends on nothing but the numbers of its argument. Assuming it costs nothing, and spares the
   axiom of functional extensionality. *)
Definition same_function {K} (f g : channel_function K) :=
  forall p q, same_plane p q -> same_plane (f p) (g q).

(* Applies function f c to channel c. *)
Definition on_channels {K} (f : nat -> channel_function K) (X : map K) : map K := fun c => f c (X c).

(* --- Conversion, as resnext_model::convert does it ---------------------------------------------------- *)

(* Stacks the paths' parts: the d entries of path 0, then those of path 1, and so on. *)
Definition join {T} (d : nat) (parts : nat -> nat -> T) : nat -> T := fun k => parts (k / d) (k mod d).

(* Cuts a whole into parts of d entries: entry j of path i. *)
Definition split {T} (d : nat) (whole : nat -> T) : nat -> nat -> T := fun i j => whole (i * d + j).

(* The same along the second dimension of a kernel, its input channels. *)
Definition join_columns {T} (d : nat) (parts : nat -> nat -> nat -> T) : nat -> nat -> T :=
  fun o => join d (fun i => parts i o).
Definition split_columns {T} (d : nat) (whole : nat -> nat -> T) : nat -> nat -> nat -> T :=
  fun i o => split d (whole o) i.

Lemma split_join {T} d (parts : nat -> nat -> T) i j : j < d -> split d (join d parts) i j = parts i j.
Proof. intros H. unfold split, join. rewrite path_of_channel, place_of_channel by exact H. reflexivity. Qed.

Lemma join_split {T} d (whole : nat -> T) k : d <> 0 -> join d (split d whole) k = whole k.
Proof.
  intros H. unfold split, join. f_equal. rewrite Nat.mul_comm. symmetry. apply Nat.div_mod. exact H.
Qed.

Lemma join_at {T} d (parts : nat -> nat -> T) i j : j < d -> join d parts (i * d + j) = parts i j.
Proof. exact (split_join d parts i j). Qed.

(* The weights of each form, under the program's names. *)
Record weights_a (K : commutative_ring) := {
  a_conv1 : nat -> kernel K;  (* of path i *)
  a_conv2 : nat -> kernel K;
  a_conv3 : nat -> kernel K;
}.
Record weights_b (K : commutative_ring) := {
  b_conv1 : nat -> kernel K;
  b_conv2 : nat -> kernel K;
  b_conv3 : kernel K;
}.
Record weights_c (K : commutative_ring) := {
  c_conv1 : kernel K;
  c_conv2 : kernel K;
  c_conv3 : kernel K;
}.
Arguments a_conv1 {_} _ _%nat _%nat _%nat _%nat _%nat.
Arguments a_conv2 {_} _ _%nat _%nat _%nat _%nat _%nat.
Arguments a_conv3 {_} _ _%nat _%nat _%nat _%nat _%nat.
Arguments b_conv1 {_} _ _%nat _%nat _%nat _%nat _%nat.
Arguments b_conv2 {_} _ _%nat _%nat _%nat _%nat _%nat.
Arguments b_conv3 {_} _ _%nat _%nat _%nat _%nat.
Arguments c_conv1 {_} _ _%nat _%nat _%nat _%nat.
Arguments c_conv2 {_} _ _%nat _%nat _%nat _%nat.
Arguments c_conv3 {_} _ _%nat _%nat _%nat _%nat.

Definition a_to_b {K} d (w : weights_a K) : weights_b K :=
  {| b_conv1 := a_conv1 w; b_conv2 := a_conv2 w; b_conv3 := join_columns d (a_conv3 w) |}.
Definition b_to_a {K} d (w : weights_b K) : weights_a K :=
  {| a_conv1 := b_conv1 w; a_conv2 := b_conv2 w; a_conv3 := split_columns d (b_conv3 w) |}.
Definition b_to_c {K} d (w : weights_b K) : weights_c K :=
  {| c_conv1 := join d (b_conv1 w); c_conv2 := join d (b_conv2 w); c_conv3 := b_conv3 w |}.
Definition c_to_b {K} d (w : weights_c K) : weights_b K :=
  {| b_conv1 := split d (c_conv1 w); b_conv2 := split d (c_conv2 w); b_conv3 := c_conv3 w |}.
Definition a_to_c {K} d (w : weights_a K) : weights_c K := b_to_c d (a_to_b d w).
Definition c_to_a {K} d (w : weights_c K) : weights_a K := b_to_a d (c_to_b d w).

(* --- The three forms ---------------------------------------------------------------------------------- *)

Section Forms.
Context {K : commutative_ring}.
Add Ring ring_of_K : (laws K).

(* There are C paths of width d, which read a map of n channels. The three convolutions may have any sizes; in
   ResNeXt the first and the third are 1×1 with stride 1 and no padding. *)
Variables (C d n : nat) (first second third : geometry).

(* The functions after the first and the second convolution: f1 i j acts on channel j of path i. Form (c) has
   them joined, which is no restriction: any family of functions is the join of its parts (join_split). *)
Variables f1 f2 : nat -> nat -> channel_function K.

(* The first two convolutions of one path, whose output has d channels. *)
Definition path_start (w1 w2 : kernel K) (f1 f2 : nat -> channel_function K) (X : map K) : map K :=
  on_channels f2 (conv second d w2 (on_channels f1 (conv first n w1 X))).

(* (a) C paths, whose outputs are added. *)
Definition form_a (w : weights_a K) (X : map K) : map K := fun o b y x =>
  sum C (fun i =>
    conv third d (a_conv3 w i) (path_start (a_conv1 w i) (a_conv2 w i) (f1 i) (f2 i) X) o b y x).

(* (b) C paths up to the second convolution, concatenated. *)
Definition concatenated (w : weights_b K) (X : map K) : map K :=
  join d (fun i => path_start (b_conv1 w i) (b_conv2 w i) (f1 i) (f2 i) X).
Definition form_b (w : weights_b K) (X : map K) : map K := conv third (C * d) (b_conv3 w) (concatenated w X).

(* (c) One grouped convolution. *)
Definition grouped (w : weights_c K) (X : map K) : map K :=
  on_channels (join d f2) (grouped_conv second d d (c_conv2 w)
    (on_channels (join d f1) (conv first n (c_conv1 w) X))).
Definition form_c (w : weights_c K) (X : map K) : map K := conv third (C * d) (c_conv3 w) (grouped w X).

(* X and Y agree on the n channels that a block reads. *)
Definition same_input (X Y : map K) := forall c, c < n -> same_plane (X c) (Y c).

(* The weights of two forms hold the same numbers, as slices or whole. *)
Definition same_weights_ab (wa : weights_a K) (wb : weights_b K) :=
  forall i j, i < C -> j < d -> forall c u v,
  a_conv1 wa i j c u v = b_conv1 wb i j c u v /\
  a_conv2 wa i j c u v = b_conv2 wb i j c u v /\
  forall o, a_conv3 wa i o j u v = b_conv3 wb o (i * d + j) u v.
Definition same_weights_bc (wb : weights_b K) (wc : weights_c K) :=
  forall i j, i < C -> j < d -> forall c u v,
  b_conv1 wb i j c u v = c_conv1 wc (i * d + j) c u v /\
  b_conv2 wb i j c u v = c_conv2 wc (i * d + j) c u v /\
  forall o, b_conv3 wb o (i * d + j) u v = c_conv3 wc o (i * d + j) u v.

Lemma a_to_b_same w : same_weights_ab w (a_to_b d w).
Proof.
  intros i j _ Hj c u v. simpl. unfold join_columns. repeat split.
  intros o. rewrite join_at by exact Hj. reflexivity.
Qed.

Lemma b_to_a_same w : same_weights_ab (b_to_a d w) w.
Proof. intros i j _ _ c u v. repeat split. Qed.

Lemma b_to_c_same w : same_weights_bc w (b_to_c d w).
Proof. intros i j _ Hj c u v. simpl. rewrite !join_at by exact Hj. repeat split. Qed.

Lemma c_to_b_same w : same_weights_bc (c_to_b d w) w.
Proof. intros i j _ _ c u v. repeat split. Qed.

(* Converting there and back gives every weight as it was. Each row j of path i (row k of all) is compared
   whole, and so is each column of a third convolution, for every output channel o. *)

Theorem a_to_b_to_a (w : weights_a K) : forall i o j, j < d ->
  a_conv1 (b_to_a d (a_to_b d w)) = a_conv1 w /\
  a_conv2 (b_to_a d (a_to_b d w)) = a_conv2 w /\
  a_conv3 (b_to_a d (a_to_b d w)) i o j = a_conv3 w i o j.
Proof.
  intros i o j Hj. split; [|split]; [reflexivity..|].
  exact (split_join d (fun i => a_conv3 w i o) i j Hj).
Qed.

Theorem b_to_a_to_b (w : weights_b K) : forall o k, d <> 0 ->
  b_conv1 (a_to_b d (b_to_a d w)) = b_conv1 w /\
  b_conv2 (a_to_b d (b_to_a d w)) = b_conv2 w /\
  b_conv3 (a_to_b d (b_to_a d w)) o k = b_conv3 w o k.
Proof. intros o k Hd. split; [|split]; [reflexivity..|]. exact (join_split d (b_conv3 w o) k Hd). Qed.

Theorem b_to_c_to_b (w : weights_b K) : forall i j, j < d ->
  b_conv1 (c_to_b d (b_to_c d w)) i j = b_conv1 w i j /\
  b_conv2 (c_to_b d (b_to_c d w)) i j = b_conv2 w i j /\
  b_conv3 (c_to_b d (b_to_c d w)) = b_conv3 w.
Proof.
  intros i j Hj. split; [|split].
  - exact (split_join d (b_conv1 w) i j Hj).
  - exact (split_join d (b_conv2 w) i j Hj).
  - reflexivity.
Qed.

Theorem c_to_b_to_c (w : weights_c K) : forall k, d <> 0 ->
  c_conv1 (b_to_c d (c_to_b d w)) k = c_conv1 w k /\
  c_conv2 (b_to_c d (c_to_b d w)) k = c_conv2 w k /\
  c_conv3 (b_to_c d (c_to_b d w)) = c_conv3 w.
Proof.
  intros k Hd. split; [|split].
  - exact (join_split d (c_conv1 w) k Hd).
  - exact (join_split d (c_conv2 w) k Hd).
  - reflexivity.
Qed.

Theorem a_to_c_to_a (w : weights_a K) : forall i o j, j < d ->
  a_conv1 (c_to_a d (a_to_c d w)) i j = a_conv1 w i j /\
  a_conv2 (c_to_a d (a_to_c d w)) i j = a_conv2 w i j /\
  a_conv3 (c_to_a d (a_to_c d w)) i o j = a_conv3 w i o j.
Proof.
  intros i o j Hj. split; [|split].
  - exact (split_join d (a_conv1 w) i j Hj).
  - exact (split_join d (a_conv2 w) i j Hj).
  - exact (split_join d (fun i => a_conv3 w i o) i j Hj).
Qed.

Theorem c_to_a_to_c (w : weights_c K) : forall o k, d <> 0 ->
  c_conv1 (a_to_c d (c_to_a d w)) k = c_conv1 w k /\
  c_conv2 (a_to_c d (c_to_a d w)) k = c_conv2 w k /\
  c_conv3 (a_to_c d (c_to_a d w)) o k = c_conv3 w o k.
Proof.
  intros o k Hd. split; [|split].
  - exact (join_split d (c_conv1 w) k Hd).
  - exact (join_split d (c_conv2 w) k Hd).
  - exact (join_split d (c_conv3 w o) k Hd).
Qed.

(* Section 1, (b) = (c), the first convolution: with the paths' rows stacked, channel j of path i is channel
   i * d + j. *)
Lemma stacked_rows g (w : nat -> kernel K) X i j :
  j < d -> same_plane (conv g n (join d w) X (i * d + j)) (conv g n (w i) X j).
Proof. intros Hj b y x. unfold conv. rewrite join_at by exact Hj. reflexivity. Qed.

Hypothesis f1_is_function : forall i j, i < C -> j < d -> same_function (f1 i j) (f1 i j).
Hypothesis f2_is_function : forall i j, i < C -> j < d -> same_function (f2 i j) (f2 i j).

(* A path's start depends only on the weights and channels that it reads. *)

Lemma path_start_equal i w1 w2 w1' w2' X Y :
  i < C ->
  (forall j, j < d -> forall c u v, w1 j c u v = w1' j c u v /\ w2 j c u v = w2' j c u v) ->
  same_input X Y ->
  forall j, j < d ->
  same_plane (path_start w1 w2 (f1 i) (f2 i) X j) (path_start w1' w2' (f1 i) (f2 i) Y j).
Proof.
  intros Hi Hw HX j Hj. unfold path_start, on_channels.
  apply f2_is_function; [exact Hi | exact Hj |].
  apply conv_equal; [intros c u v _; apply Hw; exact Hj|]. intros c Hc.
  apply f1_is_function; [exact Hi | exact Hc |].
  apply conv_equal; [intros ? ? ? _; apply Hw; exact Hc | exact HX].
Qed.

(* Section 1, (b) = (c), up to the last convolution: channel j of group i is channel j of path i. *)
Lemma group_is_path wb wc X Y i j :
  same_weights_bc wb wc -> same_input X Y -> i < C -> j < d ->
  same_plane (concatenated wb X (i * d + j)) (grouped wc Y (i * d + j)).
Proof.
  intros H HX Hi Hj. unfold concatenated, grouped. rewrite join_at by exact Hj.
  unfold path_start. unfold on_channels at 1 3. rewrite join_at by exact Hj.
  apply f2_is_function; [exact Hi | exact Hj |].
  intros b y x. apply sum_equal; intros c Hc. rewrite path_of_channel by exact Hj.
  apply correlate_equal; [intros u v; apply (H i j Hi Hj) |].
  unfold on_channels. rewrite join_at by exact Hc.
  apply f1_is_function; [exact Hi | exact Hc |].
  apply conv_equal; [intros c' u v _; apply (H i c Hi Hc) | exact HX].
Qed.

(* Section 1, (a) = (b): a matrix product split by columns. *)
Theorem a_is_b wa wb X Y o :
  same_weights_ab wa wb -> same_input X Y ->
  same_plane (form_a wa X o) (form_b wb Y o).
Proof.
  intros H HX b y x. unfold form_a, form_b, conv at 2. rewrite sum_by_paths.
  apply sum_equal; intros i Hi. apply sum_equal; intros j Hj.
  apply correlate_equal; [intros u v; apply (H i j Hi Hj 0) |].
  unfold concatenated. rewrite join_at by exact Hj.
  apply path_start_equal; [exact Hi | | exact HX | exact Hj].
  intros j' Hj' c u v. split; apply (H i j' Hi Hj').
Qed.

Theorem b_is_c wb wc X Y o :
  same_weights_bc wb wc -> same_input X Y ->
  same_plane (form_b wb X o) (form_c wc Y o).
Proof.
  intros H HX. apply conv_equal.
  - intros k u v Hk. destruct (channel_is_some_path C d k Hk) as (i & j & Hi & Hj & ->).
    apply (H i j Hi Hj 0).
  - intros k Hk. destruct (channel_is_some_path C d k Hk) as (i & j & Hi & Hj & ->).
    apply group_is_path; assumption.
Qed.

Lemma a_is_c wa wb wc X Y o :
  same_weights_ab wa wb -> same_weights_bc wb wc -> same_input X Y ->
  same_plane (form_a wa X o) (form_c wc Y o).
Proof.
  intros Hab Hbc HX b y x. rewrite (a_is_b wa wb X X); [|exact Hab | intros ? _ ? ? ?; reflexivity].
  apply b_is_c; assumption.
Qed.

(* The theorem: the weights of any form, converted to any other, compute the same function there. *)
Theorem forms_are_equal X o :
  (forall w, same_plane (form_a w X o) (form_b (a_to_b d w) X o) /\
             same_plane (form_a w X o) (form_c (a_to_c d w) X o)) /\
  (forall w, same_plane (form_b w X o) (form_a (b_to_a d w) X o) /\
             same_plane (form_b w X o) (form_c (b_to_c d w) X o)) /\
  (forall w, same_plane (form_c w X o) (form_b (c_to_b d w) X o) /\
             same_plane (form_c w X o) (form_a (c_to_a d w) X o)).
Proof.
  assert (HX : same_input X X) by (intros ? _ ? ? ?; reflexivity).
  repeat split; intros b y x.
  - apply a_is_b; [apply a_to_b_same | exact HX].
  - apply (a_is_c w (a_to_b d w)); [apply a_to_b_same | apply b_to_c_same | exact HX].
  - symmetry. apply a_is_b; [apply b_to_a_same | exact HX].
  - apply b_is_c; [apply b_to_c_same | exact HX].
  - symmetry. apply b_is_c; [apply c_to_b_same | exact HX].
  - symmetry. apply (a_is_c _ (c_to_b d w)); [apply b_to_a_same | apply c_to_b_same | exact HX].
Qed.

End Forms.
