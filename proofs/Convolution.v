(* Feature maps, convolutions and grouped convolutions, defined as nested sums.

   Indices are natural numbers without an upper limit; sizes are the limits of sums. *)

From ResNeXt Require Export Sums.

(* One channel of a batch of feature maps, indexed by image, row and column. *)
Definition plane (K : commutative_ring) := nat -> nat -> nat -> K.

(* A batch of feature maps, indexed by channel, image, row and column. *)
Definition map (K : commutative_ring) := nat -> plane K.

(* A convolution's weights, indexed by output channel, input channel, kernel row and kernel column. *)
Definition kernel (K : commutative_ring) := nat -> nat -> nat -> nat -> K.

(* The sizes of a convolution other than its channel counts. *)
Record geometry := {
  kernel_height : nat;
  kernel_width : nat;
  stride : nat;
  padding : nat;
  dilation : nat;
  map_height : nat;  (* of the input *)
  map_width : nat;
}.

Section Convolution.
Context {K : commutative_ring}.
Add Ring ring_of_K : (laws K).

(* The pixel at row y and column x of the padded map, which is zero in the border and beyond. *)
Definition padded (g : geometry) (p : plane K) : plane K := fun b y x =>
  if (padding g <=? y) && (y <? padding g + map_height g) &&
     (padding g <=? x) && (x <? padding g + map_width g)
  then p b (y - padding g) (x - padding g)
  else zero.

(* What one input channel p adds to one output channel, where w holds the weights between these two. *)
Definition correlate (g : geometry) (w : nat -> nat -> K) (p : plane K) : plane K := fun b y x =>
  sum (kernel_height g) (fun u =>
  sum (kernel_width g) (fun v =>
    w u v ⊗ padded g p b (y * stride g + u * dilation g) (x * stride g + v * dilation g))).

(* A convolution with n input channels. *)
Definition conv (g : geometry) (n : nat) (w : kernel K) (X : map K) : map K := fun o b y x =>
  sum n (fun c => correlate g (w o c) (X c) b y x).

(* A grouped convolution, with n input and m output channels per group. Output channel o belongs to group o /
   m, which reads the input channels from (o / m) * n to (o / m) * n + n - 1. *)
Definition grouped_conv (g : geometry) (n m : nat) (w : kernel K) (X : map K) : map K := fun o b y x =>
  sum n (fun c => correlate g (w o c) (X ((o / m) * n + c)) b y x).

(* The weights of a grouped convolution as a kernel that reads all channels, with zeros between the groups. *)
Definition block_diagonal (n m : nat) (w : kernel K) : kernel K := fun o c u v =>
  if c / n =? o / m then w o (c mod n) u v else zero.

(* Two planes hold the same numbers. *)
Definition same_plane (p q : plane K) := forall b y x, p b y x = q b y x.

Lemma padded_equal g p q : same_plane p q -> same_plane (padded g p) (padded g q).
Proof. intros H b y x. unfold padded. rewrite H. reflexivity. Qed.

Lemma correlate_equal g w w' p q :
  (forall u v, w u v = w' u v) -> same_plane p q -> same_plane (correlate g w p) (correlate g w' q).
Proof.
  intros Hw Hp b y x. unfold correlate.
  apply sum_equal; intros u _. apply sum_equal; intros v _.
  rewrite Hw, (padded_equal g p q Hp). reflexivity.
Qed.

(* A convolution depends only on the weights and the n channels that it reads. *)
Lemma conv_equal g n w w' X Y o o' :
  (forall c u v, c < n -> w o c u v = w' o' c u v) ->
  (forall c, c < n -> same_plane (X c) (Y c)) ->
  same_plane (conv g n w X o) (conv g n w' Y o').
Proof.
  intros Hw HX b y x. apply sum_equal; intros c Hc.
  apply correlate_equal; [intros u v; apply Hw | apply HX]; exact Hc.
Qed.

Lemma correlate_zero g w p : (forall u v, w u v = zero) -> same_plane (correlate g w p) (fun _ _ _ => zero).
Proof.
  intros H b y x. apply sum_zero; intros u _. apply sum_zero; intros v _. rewrite H. ring.
Qed.

(* A 1×1 convolution applies one matrix at every pixel. *)
Lemma conv_1x1 height width n w X o b y x :
  y < height -> x < width ->
  conv {| kernel_height := 1; kernel_width := 1; stride := 1; padding := 0; dilation := 1;
          map_height := height; map_width := width |} n w X o b y x
  = sum n (fun c => w o c 0 0 ⊗ X c b y x).
Proof.
  intros Hy Hx. apply sum_equal; intros c _. unfold correlate, padded. simpl.
  rewrite !Nat.mul_1_r, !Nat.add_0_r, !Nat.sub_0_r.
  apply Nat.ltb_lt in Hy. apply Nat.ltb_lt in Hx. rewrite Hy, Hx. simpl. ring.
Qed.

(* A grouped convolution in C groups is the convolution with the block-diagonal kernel. *)
Theorem grouped_conv_is_block_diagonal g C n m w X o :
  o < C * m -> same_plane (grouped_conv g n m w X o) (conv g (C * n) (block_diagonal n m w) X o).
Proof.
  intros Ho b y x. destruct (channel_is_some_path C m o Ho) as (i & j & Hi & Hj & ->).
  unfold conv. rewrite sum_by_paths.
  rewrite (sum_one_term C i).
  - unfold grouped_conv. rewrite path_of_channel by exact Hj.
    apply sum_equal; intros c Hc. apply correlate_equal; [|intros ? ? ?; reflexivity].
    intros u v. unfold block_diagonal.
    rewrite !path_of_channel, place_of_channel, Nat.eqb_refl by assumption. reflexivity.
  - exact Hi.
  - intros i' Hi' Hne. apply sum_zero; intros c Hc. apply correlate_zero. intros u v.
    unfold block_diagonal. rewrite !path_of_channel by assumption.
    apply Nat.eqb_neq in Hne. rewrite Hne. reflexivity.
Qed.

End Convolution.
